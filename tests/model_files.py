"""Makes descriptions of model files for tests that need no file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.model_file import Family, FileFormat, MemoryNeeds, ModelFile, TokenizerKind


def model_file(tokens: Sequence[bytes], **changes: Any) -> ModelFile:
    """Describe a legacy GPT-2 file with this vocabulary, or what ``changes`` make of it."""
    fields: dict[str, Any] = {
        "path": Path("model.bin"),
        "file_format": FileFormat.GGML,
        "version": 0,
        "family": Family.GPT2,
        "name": "model",
        "quantisation": "F16",
        "n_vocab": len(tokens),
        "n_ctx_train": 1024,
        "n_embd": 64,
        "n_head": 4,
        "n_head_kv": 4,
        "n_layer": 2,
        "n_ff": 256,
        "details": {},
        "tokenizer": TokenizerKind.BPE,
        "tokens": tokens,
        "token_types": None,
        "merges": None,
        "pre_tokenizer": None,
        "bos": None,
        "eos": None,
        "add_bos": None,
        "chat_template": None,
        "tensors": (),
        "n_bytes": 0,
        "needs_rewrite": False,
        "n_ctx_most": 1024,
        "memory": MemoryNeeds(0, 0, 0, 0),
    }
    return ModelFile(**{**fields, **changes})
