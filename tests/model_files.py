"""Makes descriptions of model files for tests that need no file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.model.description import Dimensions, Family, FileFormat, MemoryNeeds, ModelFile


def model_file(tokens: Sequence[bytes], **changes: Any) -> ModelFile:
    """Describe a legacy GPT-2 file with this vocabulary, or what ``changes`` make of it."""
    fields: dict[str, Any] = {
        "path": Path("model.bin"),
        "n_bytes": 0,
        "file_format": FileFormat.GGML,
        "family": Family.GPT2,
        "name": "model",
        "quantisation": "F16",
        "size": Dimensions(
            n_vocab=len(tokens),
            n_ctx_train=1024,
            n_embd=64,
            n_head=4,
            n_head_kv=4,
            n_layer=2,
            n_ff=256,
        ),
        "tokens": tokens,
        "tensors": (),
        "n_ctx_most": 1024,
        "memory": MemoryNeeds(0, 0, 0, 0),
    }
    return ModelFile(**{**fields, **changes})


def widened(file: ModelFile, more: Sequence[bytes]) -> ModelFile:
    """The file with more tokens at the end of its vocabulary."""
    size = replace(file.size, n_vocab=file.n_vocab + len(more))
    return replace(file, tokens=[*file.tokens, *more], size=size)
