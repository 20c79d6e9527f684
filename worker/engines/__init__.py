"""Engines: what turns token ids into logits. One file each; `load` picks by name."""

from shared.config import WorkerConfig
from shared.errors import EngineError
from worker.engines.base import Engine


def load(config: WorkerConfig) -> Engine:
    """Load the engine that ``config`` names; its library is imported only here.

    Raises:
        EngineError: the engine is unknown, or cannot load the model.
        ModelFileError: the model file is not fit to be loaded.
    """
    if config.engine == "ctransformers":
        from worker.engines.ctransformers import CTransformersEngine

        return CTransformersEngine(config)
    if config.engine == "llamacpp":
        from worker.engines.llamacpp import LlamaCppEngine

        return LlamaCppEngine(config)
    if config.engine == "echo":
        from worker.engines.echo import EchoEngine

        return EchoEngine(config)
    raise EngineError(f"unknown engine {config.engine!r}; there are: ctransformers, llamacpp, echo")
