"""What a zygote loads once and its forks inherit: the model, its prompts, its grammars."""

import gc
import os
from collections.abc import Sequence
from dataclasses import replace

from shared.config import WorkerConfig
from shared.errors import EngineError, UsageError
from shared.sampling import SamplingParams

# Both must be set before the libraries that read them are imported: a thread pool does not
# survive a fork, and neither library needs one here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Else an assertion of ggml's that fails starts a debugger, where there is one, before it aborts.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import numpy as np

from worker import engines
from worker.engines.base import Engine, SlotTokens
from worker.grammar.grammars import Grammars
from worker.prefix_memory import PrefixMemory
from worker.prompt.formats import choose_format
from worker.prompt.prompts import Prompts
from worker.sampling.sampler import Sampler

_SLOT = 0
# From four rows on, some matrices have another kernel.
_TRIAL = (0, 0, 0, 0)

_engine: Engine | None = None
_prompts: Prompts | None = None
_grammars: Grammars | None = None
_memory: PrefixMemory | None = None


def prefix_memory() -> PrefixMemory | None:
    """The prefix cache, if there is one."""
    return _memory


def loaded() -> tuple[Engine, Prompts, Grammars]:
    """What this process, a fork of the zygote, has inherited from it."""
    assert _engine is not None, "the model is loaded before a fork"
    assert _prompts is not None and _grammars is not None
    return _engine, _prompts, _grammars


def load(config: WorkerConfig, prefix_cache: int | None = None) -> Engine | str:
    """Load the model into this process, and map the prefix cache, if there is a descriptor of one.

    Returns:
        The engine, or why there is none.
    """
    global _engine, _prompts, _grammars, _memory
    try:
        if prefix_cache is not None:
            _memory = PrefixMemory(prefix_cache, config.prefix_cache)
        _engine = engine = engines.load(config)
        engine.tokenize(("a",))  # loads parts of its library, which forks can share
        if config.engine == "llamacpp":
            _evaluate_once(engine)
        chat_format = choose_format(config, engine.info.chat_template, engine.info.tool_template)
        engine.info = replace(
            engine.info,
            chat_template=chat_format.source,
            tool_template=chat_format.tool_source,
            chat_format=chat_format.name,
            chat_format_origin=chat_format.origin,
        )
        _prompts = Prompts(engine, chat_format)
        _grammars = Grammars(engine)
        if config.engine != "echo":  # which starts in no time, and is seldom asked for any
            _grammars.prepare()
    except Exception as error:
        return reason_of(error)
    # Libraries load parts of themselves when they are first used: once here, not in each worker.
    Sampler(SamplingParams(), ()).sample(np.zeros(256, np.float32))
    share()
    return engine


def _evaluate_once(engine: Engine) -> None:
    """What ends the process when it first evaluates a model is to end this one, not each worker."""
    Warmer(engine).evaluate(_TRIAL)
    engine.reuse_prefix(_SLOT, ())


def reason_of(error: Exception) -> str:
    is_ours = isinstance(error, EngineError | UsageError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"


def share() -> None:
    """Keep objects that live as long as the process out of the workers' garbage collections.

    These would write to their headers, and so un-share their pages.
    """
    gc.collect()
    gc.freeze()


class Warmer:
    """Evaluates before the fork, with one thread: there is no way to ask for more.

    A library may keep the threads of an evaluation (OpenMP does); a fork has none of them, and its
    first evaluation with several would wait for them for ever.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Put tokens into the cache.

        Raises:
            EngineError: there are none, they do not leave room in the context, or they cannot be
                evaluated.
        """
        engine, n_ctx = self._engine, self._engine.info.n_ctx
        if not 1 <= len(tokens) < n_ctx:
            raise EngineError(
                f"the prefix has {len(tokens)} tokens; it must have at least 1 and fewer than the"
                f" {n_ctx} of the context, prompt and completion together"
            )
        n_done = engine.reuse_prefix(_SLOT, tokens)
        while n_done < len(tokens):
            chunk = tokens[n_done : n_done + min(engine.chunk_size(_SLOT), engine.batch_size)]
            engine.forward([SlotTokens(_SLOT, chunk, wants_logits=False)], threads=1)
            n_done += len(chunk)
