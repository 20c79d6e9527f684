"""Loads the model once, in the fork server, so that every worker is a fork that shares it.

The fork server imports this module before it forks anything (``set_forkserver_preload``), and a
preloaded module gets no arguments: the configuration comes in an environment variable, and a
failure is kept as a value, since an exception here would end the fork server without a word.
Where there is no fork server, a worker that finds nothing loaded loads the model itself.
"""

import gc
import os

import orjson

from shared import oom_score
from shared.config import TEMPLATE_VARIABLE, WorkerConfig
from shared.errors import EngineError, ModelFileError
from shared.logging import configure_logging
from shared.sampling import SamplingParams

# Both must be set before the libraries that read them are imported: a thread pool does not
# survive a fork, and neither library needs one here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

# Those that are not used here are imported so that workers share them.
from worker import engines, inbox, main, outbox  # noqa: F401
from worker.engines.base import Engine
from worker.grammar import Grammars
from worker.loop import Loop  # noqa: F401
from worker.orphan import ends_with_parent
from worker.sampling.sampler import Sampler

_loaded: tuple[WorkerConfig, Engine | str] | None = None
_grammars: Grammars | None = None


def engine_for(config: WorkerConfig) -> Engine:
    """The engine of this process: the preloaded one, or one that is loaded now.

    Raises:
        EngineError: the model could not be loaded; the text says why.
    """
    global _loaded
    if _loaded is None or _loaded[0] != config:
        _loaded = (config, _load(config))
    engine = _loaded[1]
    if isinstance(engine, str):
        raise EngineError(engine)
    return engine


def grammars() -> Grammars:
    """Grammars over the vocabulary of the engine that `engine_for` gave last."""
    assert _grammars is not None, "they are made when an engine is loaded"
    return _grammars


def _load(config: WorkerConfig) -> Engine | str:
    global _grammars
    try:
        engine = engines.load(config)
        engine.tokenize(("a",))  # loads parts of its library, which forks can share
        _grammars = Grammars(engine)
        if config.engine != "echo":  # which starts in no time, and is seldom asked for any
            _grammars.prepare()
        return engine
    except (EngineError, ModelFileError) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _preload(encoded: str) -> None:
    global _loaded
    oom_score.adjust(oom_score.TEMPLATE)
    config = WorkerConfig(**orjson.loads(encoded))
    configure_logging(config.log_level, config.log_format, "template")
    with ends_with_parent():
        _loaded = (config, _load(config))
    # Libraries load parts of themselves when they are first used: once here, not in each worker.
    Sampler(SamplingParams(), ()).sample(np.zeros(256, np.float32))
    # Objects that live as long as the process stay out of the workers' garbage collections,
    # which would write to their headers and so un-share their pages.
    gc.collect()
    gc.freeze()


if TEMPLATE_VARIABLE in os.environ:
    _preload(os.environ[TEMPLATE_VARIABLE])
