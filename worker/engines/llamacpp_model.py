"""A model and its context, as llama.cpp makes them: weights, adapters, the cache of all slots."""

from ctypes import c_float, c_void_p
from dataclasses import dataclass

from shared.config import WorkerConfig
from shared.errors import EngineError
from shared.model.description import ModelFile, Pooling
from worker.engines.llamacpp_library import Library

# With fewer cells than it has sequences, the library ends the process.
_LEAST_CELLS = 256
# What pooling a context does: none, or what the file says.
_NO_POOLING, _POOLING_OF_FILE = 0, -1
_READ, _MAPPED = 0, 1
#: Of the types that a KV cache may have: their numbers in ggml.
_CACHE_TYPES = {"f16": 1, "q8_0": 8}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the library has made of a file: addresses, which live as long as the process."""

    model: int
    context: int


def load_model(
    library: Library, file: ModelFile, config: WorkerConfig, *, n_ctx: int, n_batch: int
) -> Loaded:
    """Load a file that has been inspected, for batches of so many rows.

    Raises:
        EngineError: the library refused it, or an adapter.
    """
    # What is repacked and mapped is there twice: Gemma 3 270M takes 49 MB less if it is read.
    load_mode = _READ if file.is_repacked else _MAPPED
    model = library.c.llama_model_load_from_file(
        str(file.path).encode(), library.model_params(load_mode=load_mode, n_gpu_layers=0)
    )
    if not model:
        raise EngineError(f"{file.path}: llama.cpp cannot load it: {library.reason()}")
    _check_use(library, model, file)
    pools = file.pooling is not Pooling.NONE
    cache_type = _CACHE_TYPES[config.cache_type]
    context = library.c.llama_init_from_model(
        model,
        library.context_params(
            n_ctx=max(n_ctx, _LEAST_CELLS) * (config.slots if config.exact_rows else 1),
            n_batch=n_batch,
            n_ubatch=n_batch,
            n_seq_max=config.slots,
            # One thread until a worker says otherwise: see `Warmer`.
            n_threads=1,
            n_threads_batch=1,
            pooling_type=_POOLING_OF_FILE if pools else _NO_POOLING,
            embeddings=pools,
            swa_full=False,
            kv_unified=not config.exact_rows,  # cells of its own are in order of positions
            type_k=cache_type,
            type_v=cache_type,
        ),
    )
    if not context:
        kind = f" with CACHE_TYPE={config.cache_type}" if config.cache_type != "f16" else ""
        raise EngineError(f"{file.path}: llama.cpp makes no context{kind}: {library.reason()}")
    _adapt(library, model, context, config)
    return Loaded(model, context)


def _check_use(library: Library, model: int, file: ModelFile) -> None:
    c = library.c
    if c.llama_model_is_diffusion(model):
        raise EngineError(f"{file.path}: a diffusion model, which is not served here")
    if c.llama_model_has_encoder(model) and c.llama_model_has_decoder(model):
        raise EngineError(f"{file.path}: a model of encoder and decoder, which is not served here")


def _adapt(library: Library, model: int, context: int, config: WorkerConfig) -> None:
    """Add the adapters to all evaluations of a context."""
    n = len(config.adapters)
    adapters, scales = (c_void_p * n)(), (c_float * n)()
    for place, (path, scale) in enumerate(config.adapters):
        adapters[place] = library.c.llama_adapter_lora_init(model, path.encode())
        if not adapters[place]:
            raise EngineError(f"LORA={path}: llama.cpp cannot load it: {library.reason()}")
        scales[place] = scale
    if n and library.c.llama_set_adapters_lora(context, adapters, n, scales):
        raise EngineError(f"LORA: llama.cpp cannot use it: {library.reason()}")
