"""The C library of llama.cpp by its ctypes handle: the one that the package xllamacpp carries.

None of the package's classes are used, and it is not imported. Two structs are passed by value;
builds of the library insert members into them, and with another layout a call writes past the
struct. So only versions whose layout is in `_LAYOUTS` are used, and the defaults that the library
fills in must be where the layout says.
"""

import ctypes
import struct
from collections.abc import Mapping
from ctypes import c_bool, c_char_p, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

from shared.errors import EngineError
from shared.model.llamacpp_library import PACKAGE, VERSION, LlamaCppLibrary, find_llamacpp

_LOG_ERROR, _LOG_CONTINUED = 4, 5
_LONGEST_REASON = 400
_POINTER, _IDS = c_void_p, ctypes.POINTER(c_int32)
# Kept, whatever becomes of their libraries: C has but one, and calls it as long as it lives.
_callbacks: list[Any] = []
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)


class _Raw(ctypes.Structure):
    """Larger than the structs of any version."""

    _fields_ = (("words", ctypes.c_uint64 * 64),)


class ModelParams(ctypes.Structure):
    """``llama_model_params``."""

    _fields_ = (("words", ctypes.c_uint64 * 10),)


class ContextParams(ctypes.Structure):
    """``llama_context_params``."""

    _fields_ = (("words", ctypes.c_uint64 * 21),)


class Batch(ctypes.Structure):
    """``llama_batch``: an array of a number for each token."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", _IDS),
        ("embd", c_void_p),
        ("pos", _IDS),
        ("n_seq_id", _IDS),
        ("seq_id", ctypes.POINTER(_IDS)),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_Members = dict[str, tuple[int, str, int]]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Of each struct some members: offset, format of `struct`, and default."""

    model: _Members
    context: _Members


_LAYOUTS = {
    VERSION: _Layout(
        model={
            "n_gpu_layers": (16, "i", -1), "split_mode": (20, "i", 1), "load_mode": (24, "i", -1),
            "lazy_mode": (28, "i", 1), "vocab_only": (72, "?", 0), "check_tensors": (73, "?", 0),
            "use_extra_bufts": (74, "?", 1), "load_mtp": (77, "?", 0),
        },
        context={
            "n_ctx": (0, "I", 512), "n_batch": (4, "I", 2048), "n_ubatch": (8, "I", 512),
            "n_seq_max": (12, "I", 1), "n_outputs_max_per_seq": (24, "I", 1),
            "n_threads": (28, "i", 4), "n_threads_batch": (32, "i", 4),
            "rope_scaling": (40, "i", -1), "pooling_type": (44, "i", -1),
            "attention_type": (48, "i", -1), "flash_attention": (52, "i", -1),
            "type_k": (104, "i", 1), "type_v": (108, "i", 1), "moe_cache_size": (112, "i", 0),
            "embeddings": (136, "?", 0), "offload_kqv": (137, "?", 1), "no_perf": (138, "?", 1),
            "op_offload": (139, "?", 1), "swa_full": (140, "?", 1), "kv_unified": (141, "?", 0),
        },
    ),
}  # fmt: skip

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LOG_CALLBACK, _POINTER)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (_POINTER, (c_char_p, ModelParams)),
    "llama_init_from_model": (_POINTER, (_POINTER, ContextParams)),
    "llama_adapter_lora_init": (_POINTER, (_POINTER, c_char_p)),
    "llama_set_adapters_lora": (c_int32, (_POINTER, _POINTER, ctypes.c_size_t, _POINTER)),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_model_n_embd_out": (c_int32, (_POINTER,)),
    "llama_model_n_swa": (c_int32, (_POINTER,)),
    "llama_model_has_encoder": (c_bool, (_POINTER,)),
    "llama_model_has_decoder": (c_bool, (_POINTER,)),
    "llama_model_is_recurrent": (c_bool, (_POINTER,)),
    "llama_model_is_hybrid": (c_bool, (_POINTER,)),
    "llama_model_is_diffusion": (c_bool, (_POINTER,)),
    "llama_vocab_n_tokens": (c_int32, (_POINTER,)),
    "llama_vocab_get_attr": (c_int32, (_POINTER, c_int32)),
    "llama_vocab_is_eog": (c_bool, (_POINTER, c_int32)),
    "llama_vocab_bos": (c_int32, (_POINTER,)),
    "llama_vocab_eos": (c_int32, (_POINTER,)),
    "llama_vocab_fim_pre": (c_int32, (_POINTER,)),
    "llama_vocab_fim_suf": (c_int32, (_POINTER,)),
    "llama_vocab_fim_mid": (c_int32, (_POINTER,)),
    "llama_tokenize": (c_int32, (_POINTER, c_char_p, c_int32, _IDS, c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (_POINTER, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_get_memory": (_POINTER, (_POINTER,)),
    "llama_memory_seq_rm": (c_bool, (_POINTER, c_int32, c_int32, c_int32)),
    "llama_memory_seq_cp": (None, (_POINTER, c_int32, c_int32, c_int32, c_int32)),
    "llama_memory_seq_pos_min": (c_int32, (_POINTER, c_int32)),
    "llama_memory_seq_pos_max": (c_int32, (_POINTER, c_int32)),
    "llama_state_seq_get_size": (c_size_t, (_POINTER, c_int32)),
    "llama_state_seq_get_data": (c_size_t, (_POINTER, _POINTER, c_size_t, c_int32)),
    "llama_state_seq_set_data": (c_size_t, (_POINTER, _POINTER, c_size_t, c_int32)),
    "llama_decode": (c_int32, (_POINTER, Batch)),
    "llama_set_n_threads": (None, (_POINTER, c_int32, c_int32)),
    "llama_set_embeddings": (None, (_POINTER, c_bool)),
    "llama_get_logits": (c_void_p, (_POINTER,)),
    "llama_get_embeddings_ith": (c_void_p, (_POINTER, c_int32)),
    "llama_get_embeddings_seq": (c_void_p, (_POINTER, c_int32)),
}


class Library:
    """The library; its functions are attributes of ``c``."""

    def __init__(self, name: str = "") -> None:
        """Find and load it; ``name`` is a file, or a file, ``@`` and a version.

        Raises:
            EngineError: it is not one that is known here, or cannot be loaded.
            UsageError: it is not there, or is not for this machine.
        """
        library = find_llamacpp(name)
        layouts = _layouts_of(library)
        self._name = library.name
        self.c = _load(library.path)
        for function_name, (result, arguments) in _FUNCTIONS.items():
            try:
                function = getattr(self.c, function_name)
            except AttributeError as error:
                raise EngineError(f"{self._name} has no function {function_name}") from error
            function.restype, function.argtypes = result, arguments
        self._layout = self._fitting(layouts)
        self._errors: list[str] = []
        self._is_error = False
        callback = _LOG_CALLBACK(self._on_log)
        _callbacks.append(callback)
        self.c.llama_log_set(callback, None)
        self.c.llama_backend_init()

    def model_params(self, **members: int) -> ModelParams:
        params: ModelParams = self.c.llama_model_default_params()
        _fill(params, self._layout.model, members)
        return params

    def context_params(self, **members: int) -> ContextParams:
        params: ContextParams = self.c.llama_context_default_params()
        _fill(params, self._layout.context, members)
        return params

    def reason(self) -> str:
        """What the library has said of its failures since the last call, as one line."""
        lines = dict.fromkeys(line.split(": ", 1)[-1].strip() for line in self._errors)
        self._errors.clear()
        return "; ".join(filter(None, lines))[:_LONGEST_REASON] or "it does not say why"

    def _on_log(self, level: int, text: bytes | None, _: object) -> None:
        if level != _LOG_CONTINUED:
            self._is_error = level == _LOG_ERROR
        if self._is_error and text:
            self._errors.append(text.decode("utf-8", "replace"))
            del self._errors[:-8]

    def _fitting(self, layouts: Mapping[str, _Layout]) -> _Layout:
        """The first layout whose defaults are where it says.

        Raises:
            EngineError: there is none; nothing that the library has returned was used.
        """
        problem = ""
        for version, layout in layouts.items():
            problem = self._difference("llama_model_default_params", layout.model)
            problem = problem or self._difference("llama_context_default_params", layout.context)
            if not problem:
                return layout
            problem = f"{self._name} is not a library of version {version}: {problem}"
        raise EngineError(f"{problem}; {PACKAGE}=={VERSION} has one that is known here")

    def _difference(self, function: str, members: _Members) -> str:
        # A prototype of its own: what it returns has room for more than the library can write.
        raw = bytes(ctypes.CFUNCTYPE(_Raw)((function, self.c))().words)
        for member, (offset, form, default) in members.items():
            found = struct.unpack_from("<" + form, raw, offset)[0]
            if found != default:
                return f"{member} of {function} is {found}, not {default}"
        return ""


def _layouts_of(library: LlamaCppLibrary) -> Mapping[str, _Layout]:
    """The layouts that a library may have: its version's, or any where that is not known."""
    if not library.version:
        return _LAYOUTS
    if library.version not in _LAYOUTS:
        raise EngineError(
            f"{library.name} is of version {library.version}, and only {', '.join(_LAYOUTS)} is"
            f" known here: pip install {PACKAGE}=={VERSION}"
        )
    return {library.version: _LAYOUTS[library.version]}


def _load(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise EngineError(f"llama.cpp's library could not be loaded: {error}") from error


def _fill(params: ctypes.Structure, layout: _Members, values: dict[str, int]) -> None:
    for member, value in values.items():
        offset, form, _ = layout[member]
        struct.pack_into("<" + form, params, offset, value)
