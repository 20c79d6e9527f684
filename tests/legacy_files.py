"""Writes small legacy model files (and Falcon's in both formats) that ctransformers loads.

Each ``tiny_...`` describes a whole model of a few ten kilobytes with random weights, always the
same, which a test may change before it is written.
"""

import random
import struct
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shared.model.description import Dimensions
from shared.model.ggcc import Header
from shared.model.layouts import FLOAT_FIELDS, LAYOUTS, Layout, Shapes, ggcc, shapes_of
from shared.model.tensors import TENSOR_TYPES
from tests.gguf_files import ARRAY, F32, STRING, U32, GGUFDraft, Tensor, bpe_metadata, bpe_words

GGML_MAGIC, GGCC_MAGIC = b"lmgg", b"ccgg"
END = b"<|endoftext|>"
_FTYPES = {0: 0, 1: 1, 2: 2, 3: 3, 8: 7, 6: 8, 7: 9, 10: 10, 11: 11, 12: 12, 13: 13, 14: 14}
_BY_LABEL = {layout.label: layout for layout in LAYOUTS}


@dataclass
class LegacyDraft:
    """What a file will hold."""

    header: dict[str, float]  #: 32-bit numbers after the magic, in order
    words: list[bytes]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    magic: bytes = GGML_MAGIC
    again: int | None = None  #: the number of words, once more between header and vocabulary
    scored: bool = False  #: a float follows each word
    between: bytes = b""  #: what stands between vocabulary and tensors
    alignment: int = 1  #: of each tensor's data

    def head(self) -> bytes:
        parts = [self.magic]
        for name, value in self.header.items():
            parts.append(struct.pack("<f" if name in FLOAT_FIELDS else "<i", value))
        if self.again is not None:
            parts.append(struct.pack("<i", self.again))
        for word in self.words:
            parts.append(struct.pack("<I", len(word)) + word + bytes(4 * self.scored))
        return b"".join(parts) + self.between

    def to_bytes(self) -> bytes:
        content = bytearray(self.head())
        for name, tensor in self.tensors.items():
            content += record(name, tensor)
            content += bytes(-len(content) % self.alignment) + tensor.data
        return bytes(content)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path

    def write_sparse(self, path: Path) -> Path:
        """Write the file with zeros for missing weights, which take no room on disk."""
        with path.open("wb") as file:
            file.write(self.head())
            for name, tensor in self.tensors.items():
                file.write(record(name, tensor))
                file.seek(-file.tell() % self.alignment, 1)
                file.write(tensor.data)
                file.seek(n_bytes(tensor.shape, tensor.ggml_type) - len(tensor.data), 1)
            file.truncate(file.tell())
        return path


def record(name: str, tensor: Tensor) -> bytes:
    """What stands in front of a tensor's data."""
    n_dims, raw = len(tensor.shape), name.encode()
    return struct.pack(f"<3i{n_dims}i", n_dims, len(raw), tensor.ggml_type, *tensor.shape) + raw


def n_bytes(shape: tuple[int, ...], ggml_type: int) -> int:
    _, block, block_bytes = TENSOR_TYPES[ggml_type]
    count = 1
    for dimension in shape:
        count *= dimension
    return count // block * block_bytes


@cache
def weights(seed: int, shape: tuple[int, ...], ggml_type: int) -> bytes:
    """Random data: ones for vectors of weights would do as well, but hide mistakes."""
    source = random.Random(seed)
    _, block, block_bytes = TENSOR_TYPES[ggml_type]
    count = n_bytes(shape, ggml_type) // block_bytes
    if ggml_type in (0, 1):
        values = (source.gauss(0, 0.3) for _ in range(count))
        return struct.pack(f"<{count}{'fe'[ggml_type]}", *values)
    if block == 256:
        return bytes(count * block_bytes)
    scale = struct.pack("<e", 0.02) * (2 if ggml_type in (3, 7) else 1)
    rest = block_bytes - len(scale)
    return b"".join(scale + source.randbytes(rest) for _ in range(count))


def _tensors(shapes: Shapes, wtype: int, empty: bool) -> dict[str, Tensor]:
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        kind = wtype if len(shape) == 2 and "wpe" not in name else 0
        data = b"" if empty else weights(seed, shape, kind)
        tensors[name] = Tensor(shape, data, kind)
    return tensors


def _tiny(
    layout: Layout, numbers: dict[str, float], words: list[bytes], wtype: int, empty: bool
) -> LegacyDraft:
    numbers = {**numbers, "n_vocab": len(words), "ftype": _FTYPES[wtype] + 2000 * (wtype > 1)}
    header = {name: numbers[name] for name in layout.fields.split()}
    assert layout.tensors is not None
    n_embd, n_ctx, n_head, n_layer = (
        int(numbers[name]) for name in ("n_embd", "n_ctx", "n_head", "n_layer")
    )
    size = Dimensions(
        n_vocab=len(words),
        n_ctx_train=n_ctx,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head,
        n_layer=n_layer,
        n_ff=4 * n_embd,
    )
    shapes = shapes_of(layout.tensors, size)
    return LegacyDraft(
        header,
        words,
        _tensors(shapes, wtype, empty),
        again=len(words) if layout.n_vocab_again else None,
    )


def words_of(n_vocab: int = 300) -> list[bytes]:
    """A byte-level vocabulary with its end token first."""
    words = [END, *bpe_words()]
    words += [b"word%d" % index for index in range(n_vocab - len(words))]
    return words[:n_vocab]


def tiny_starcoder(
    *, n_embd: int = 32, n_head: int = 4, n_layer: int = 2, n_ctx: int = 64, wtype: int = 0,
    n_vocab: int = 300, tied: bool = True, empty: bool = False,
) -> LegacyDraft:  # fmt: skip
    words = [*words_of(n_vocab - 1), b"<fim_prefix>"]
    numbers = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer, "n_ctx": n_ctx}
    draft = _tiny(_BY_LABEL["StarCoder or GPT-2"], dict(numbers), words, wtype, empty)
    if tied:
        del draft.tensors["model/lm_head"]
    return draft


def tiny_gpt2() -> LegacyDraft:
    draft = tiny_starcoder()
    draft.words = [*words_of(299)[1:], b"2019", END]
    return draft


def tiny_mpt(
    *, n_embd: int = 32, n_head: int = 4, n_layer: int = 2, n_ctx: int = 64, wtype: int = 0,
    n_vocab: int = 300, clip: float = 0, empty: bool = False,
) -> LegacyDraft:  # fmt: skip
    # Each byte of its words is a letter of Latin-1.
    words = [word.decode("latin-1").encode() for word in words_of(n_vocab)]
    numbers = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer, "n_ctx": n_ctx,
               "alibi_bias_max": 8.0, "clip_qkv": clip}  # fmt: skip
    return _tiny(_BY_LABEL["MPT"], numbers, words, wtype, empty)


def tiny_neox(
    *, n_embd: int = 32, n_head: int = 4, n_layer: int = 2, n_ctx: int = 64, wtype: int = 0,
    n_vocab: int = 300, n_rot: int = 4, par_res: int = 1, empty: bool = False,
) -> LegacyDraft:  # fmt: skip
    numbers = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer, "n_ctx": n_ctx,
               "n_rot": n_rot, "par_res": par_res}  # fmt: skip
    layout, words = _BY_LABEL["GPT-NeoX"], words_of(n_vocab)
    return _tiny(layout, dict(numbers), words, wtype, empty)


def falcon_words(n_vocab: int = 300) -> list[bytes]:
    """A vocabulary with Falcon's eleven special tokens and its end token first."""
    special = [b">>%d<<" % index for index in range(11)]
    return [*special, *words_of(n_vocab - 11)]


def tiny_ggcc(
    *, n_embd: int = 32, n_head: int = 4, n_head_kv: int = 1, n_layer: int = 2, wtype: int = 0,
    falcon_type: int = 7, n_vocab: int = 300, empty: bool = False,
) -> LegacyDraft:  # fmt: skip
    words = falcon_words(n_vocab)
    merges = [b"h", b"e", b"l", b"l", "Ġ".encode(), b"t"]
    header = Header(n_vocab, n_embd, n_head, n_head_kv, n_layer, falcon_type, wtype, 3)
    between = struct.pack("<i", 3)
    between += b"".join(struct.pack("<I", len(half)) + half for half in merges)
    return LegacyDraft(
        {"version": 10, **header._asdict()},
        words,
        _tensors(shapes_of(ggcc(header.is_40b), header.size(n_vocab)), wtype, empty),
        magic=GGCC_MAGIC,
        scored=True,
        between=between,
        alignment=32,
    )


def tiny_falcon(
    form: str = "bytes", *, two_norms: bool = False, n_embd: int = 32, n_head: int = 4,
    n_head_kv: int = 1, tied: bool = False,
) -> GGUFDraft:  # fmt: skip
    """A GGUF file of two layers, in ``bytes`` as in 2023 or in ``letters`` as today.

    Two norms are as in the models of 40B; a tied one has no ``output.weight``.
    """
    n_ff, n_vocab = 4 * n_embd, 300
    draft = GGUFDraft(version=2)
    tokens = [*falcon_words(n_vocab)]
    draft.metadata = {
        "general.architecture": (STRING, "falcon"),
        "general.name": (STRING, "Falcon"),
        "falcon.context_length": (U32, 2048),
        "falcon.tensor_data_layout": (STRING, "jploski"),
        "falcon.embedding_length": (U32, n_embd),
        "falcon.feed_forward_length": (U32, n_ff),
        "falcon.block_count": (U32, 2),
        "falcon.attention.head_count": (U32, n_head),
        "falcon.attention.head_count_kv": (U32, n_head_kv),
        "falcon.attention.layer_norm_epsilon": (F32, 1e-5),
        **bpe_metadata(tokens, form, n_special=12),
    }
    if form == "bytes":
        draft.metadata["tokenizer.ggml.scores"] = (ARRAY, F32, [0.0] * n_vocab)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_embd, n_vocab)}
    qkv = n_embd // n_head * (n_head + 2 * n_head_kv)
    for layer in range(2):
        for norm in ("attn_norm", "attn_norm_2")[: 1 + two_norms]:
            shapes[f"blk.{layer}.{norm}.weight"] = shapes[f"blk.{layer}.{norm}.bias"] = (n_embd,)
        shapes[f"blk.{layer}.attn_qkv.weight"] = (n_embd, qkv)
        shapes[f"blk.{layer}.attn_output.weight"] = (n_embd, n_embd)
        shapes[f"blk.{layer}.ffn_up.weight"] = (n_embd, n_ff)
        shapes[f"blk.{layer}.ffn_down.weight"] = (n_ff, n_embd)
    shapes["output_norm.weight"] = shapes["output_norm.bias"] = (n_embd,)
    if not tied:
        shapes["output.weight"] = (n_embd, n_vocab)
    for seed, (name, shape) in enumerate(shapes.items()):
        draft.tensors[name] = Tensor(shape, weights(seed, shape, 0))
    return draft
