"""Which engine serves the model that the settings name, with which library and which adapters."""

import logging
import math
from dataclasses import replace
from pathlib import Path

from gateway import demo_model
from gateway.hub import ModelSource, resolve
from gateway.settings import Settings
from shared.errors import ModelFileError, UsageError
from shared.model.description import ModelFile
from shared.model.gguf_reader import read_gguf
from shared.model.library import EngineLibrary, choose
from shared.model.llamacpp_library import find_llamacpp

CTRANSFORMERS, LLAMACPP = "ctransformers", "llamacpp"
Adapters = tuple[tuple[str, float], ...]

logger = logging.getLogger(__name__)


def source_for(settings: Settings) -> ModelSource:
    """Find the model, described for the engine that is to serve it; may download it.

    Raises:
        UsageError: there is no such model, or no engine for it that can be used here.
    """
    found = _found(settings)
    file = found.file
    if file.engine != LLAMACPP:
        _refuse_settings_of_llamacpp(settings)
        return found
    memory = file.memory if settings.cache_type == "f16" else file.memory.with_q8_0()
    added = sum(read_gguf(Path(path)).weight_bytes for path, _ in adapters_for(settings, file))
    memory = replace(memory, weights=memory.weights + added)
    return replace(found, file=replace(file, memory=memory))


def library_for(settings: Settings, file: ModelFile) -> EngineLibrary:
    """The library that serves a model; without a path it is that of the engine's package.

    Raises:
        UsageError: there is none for this machine.
    """
    if file.engine == LLAMACPP:
        name = settings.llama_lib or ""
        return EngineLibrary(name, f"llama.cpp, {name}" if name else "llama.cpp")
    return choose(settings.ct_lib, demo_model.default_cache_dir())


def adapters_for(settings: Settings, file: ModelFile) -> Adapters:
    """The adapters that LORA names, with their scales.

    Raises:
        UsageError: one is not there, is no adapter, or is one of another architecture.
    """
    adapters = []
    for each in filter(None, (settings.lora or "").split(",")):
        text, scale = _parted(each)
        path = Path(text).expanduser().absolute()
        adapter = read_gguf(path)
        kinds = adapter.text("general.type"), adapter.text("adapter.type")
        if kinds != ("adapter", "lora"):
            raise UsageError(f"LORA={each}: {path} is no LoRA adapter (of its general.type)")
        if adapter.architecture != file.architecture:
            raise UsageError(
                f"LORA={each}: an adapter of {adapter.architecture} models; this model's"
                f" architecture is {file.architecture}"
            )
        adapters.append((str(path), scale))
    return tuple(adapters)


def _parted(text: str) -> tuple[str, float]:
    """A file and its scale, which may be left away."""
    name, colon, number = text.rpartition(":")
    try:
        scale = float(number)
    except ValueError:
        return text, 1.0
    if not colon:
        return text, 1.0
    if not math.isfinite(scale):
        raise UsageError(f"LORA={text}: the scale must be a number")
    return name, scale


def _refuse_settings_of_llamacpp(settings: Settings) -> None:
    for name, is_set in (
        ("LLAMA_LIB", settings.llama_lib is not None),
        ("CACHE_TYPE", settings.cache_type != "f16"),
        ("LORA", settings.lora is not None),
    ):
        if is_set:
            raise UsageError(f"{name} is for llama.cpp, and ctransformers serves this model")


def _found(settings: Settings) -> ModelSource:
    engine, problem = _engine(settings), None
    # Engines first, since what follows may be a long download.
    if engine == CTRANSFORMERS or settings.ct_lib is not None:
        choose(settings.ct_lib, demo_model.default_cache_dir())
    if engine == CTRANSFORMERS:
        _refuse_settings_of_llamacpp(settings)
    else:
        try:
            find_llamacpp(settings.llama_lib or "")
        except UsageError as error:
            if engine == LLAMACPP or settings.llama_lib is not None:
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


def _engine(settings: Settings) -> str:
    """The engine that is asked for; ``auto`` leaves it to the model."""
    if settings.tokenizer is None:
        return settings.engine
    if settings.engine == LLAMACPP:
        raise UsageError("TOKENIZER is for ctransformers; llama.cpp takes the model file's own")
    return CTRANSFORMERS
