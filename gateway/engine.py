"""Which engine serves the model that the settings name, and with which build of its library."""

import logging

from gateway import demo_model
from gateway.hub import ModelSource, resolve
from gateway.settings import Settings
from shared.errors import ModelFileError, UsageError
from shared.model.description import ModelFile
from shared.model.library import EngineLibrary, choose
from shared.model.llamacpp_library import find_llamacpp

CTRANSFORMERS, LLAMACPP = "ctransformers", "llamacpp"

logger = logging.getLogger(__name__)


def source_for(settings: Settings) -> ModelSource:
    """Find the model, described for the engine that is to serve it; may download it.

    Raises:
        UsageError: there is no such model, or no engine for it that can be used here.
    """
    engine, problem = _engine(settings), None
    # Engines first, since what follows may be a long download.
    if engine == CTRANSFORMERS or settings.ct_lib is not None:
        choose(settings.ct_lib, demo_model.default_cache_dir())
    if engine != CTRANSFORMERS:
        try:
            find_llamacpp()
        except UsageError as error:
            if engine == LLAMACPP:
                raise
            problem = error

    def source(engine: str) -> ModelSource:
        return resolve(settings.model_name, settings.model_file, settings.model_type, engine)

    found = source(engine)
    if problem is None or found.file.engine != LLAMACPP:
        return found
    try:
        other = source(CTRANSFORMERS)
    except ModelFileError:
        raise problem from None
    logger.warning("%s; ctransformers serves the model instead", problem)
    return other


def library_for(settings: Settings, file: ModelFile) -> EngineLibrary:
    """The library that serves a model; without a path it is that of the engine's package.

    Raises:
        UsageError: there is none for this machine.
    """
    if file.engine == LLAMACPP:
        return EngineLibrary("", "llama.cpp")
    return choose(settings.ct_lib, demo_model.default_cache_dir())


def _engine(settings: Settings) -> str:
    """The engine that is asked for; ``auto`` leaves it to the model."""
    if settings.tokenizer is None:
        return settings.engine
    if settings.engine == LLAMACPP:
        raise UsageError("TOKENIZER is for ctransformers; llama.cpp takes the model file's own")
    return CTRANSFORMERS
