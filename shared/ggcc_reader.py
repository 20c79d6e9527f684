"""Reads Falcon models in ``ggcc`` files (ggllm.cpp, version 10), and believes nothing in them.

Source: ``ggml/libfalcon.cpp`` of ctransformers 0.2.27.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shared.binary_reader import BinaryReader, Data
from shared.engine_memory import max_layers
from shared.ggml_types import F32
from shared.gguf import TensorInfo
from shared.legacy_layouts import Shapes
from shared.legacy_reader import MAX_WORD_BYTES
from shared.model_file import Family, FileFormat
from shared.tensor_records import read_records

VERSION = 10
N_CTX_TRAIN = 2048
"""Falcon's context length, which these files do not name."""
EOS = 11
"""The id that the library takes as end of text, whatever the vocabulary says."""
_N_SPECIAL = 12
"""The first ids, which the library looks up without asking how many there are."""
_ALIGNMENT = 32
_INT_MAX = (1 << 31) - 1
_FORCED_TYPES = {32: 7, 60: 40}
"""The type that the library assumes for a number of layers, whatever the header says."""
_PADDED = 65_025
_PADDED_WIDTHS = (4544, 8192)
"""Fine-tuned models with one more token, ``[PAD]``: the library leaves it out, and then takes the
matrices of these widths only."""


class Header(NamedTuple):
    """The numbers at the beginning of the file."""

    n_vocab: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_layer: int
    falcon_type: int
    ftype: int
    n_merges: int


@dataclass(frozen=True, slots=True)
class GGCCFile:
    """A whole file.

    Attributes:
        header: its numbers; ``n_vocab`` is how many tokens the library uses.
        tokens: each id's bytes.
        merges: BPE merges in order of rank, ``left right``.
        tensors: in the file's order.
    """

    header: Header
    tokens: list[bytes]
    merges: list[bytes]
    tensors: tuple[TensorInfo, ...]

    @property
    def is_40b(self) -> bool:
        """Whether each layer has two norms."""
        return self.header.falcon_type == 40


def read_ggcc(path: Path, data: Data) -> GGCCFile:
    """Read a file and check that it is whole and that the library can compute with it.

    Raises:
        ModelFileError: it is not, or it cannot.
    """
    reader = BinaryReader(path, data)
    reader.skip(4)
    version = reader.number("I")
    if version != VERSION:
        reader.fail(f"version {version} of ggcc files is not known; version {VERSION} is")
    header = Header(*reader.numbers("8i"))
    _check_header(reader, header)
    tokens = reader.words(header.n_vocab, MAX_WORD_BYTES, "I", gap=4)
    n_merges = reader.number("i")
    if n_merges != header.n_merges:
        reader.fail(f"damaged: {n_merges:,} merges where {header.n_merges:,} are due")
    halves = reader.words(2 * n_merges, MAX_WORD_BYTES, "I")
    _check_merges(reader, halves)
    merges = list(map(b" ".join, zip(halves[::2], halves[1::2], strict=True)))
    if len(tokens) == _PADDED and tokens[-1] == b"[PAD]":
        if header.n_embd not in _PADDED_WIDTHS:
            reader.fail(f"its vocabulary ends in [PAD], which needs a width of {_PADDED_WIDTHS}")
        tokens.pop()
    expected = ggcc_shapes(header)
    tensors = read_records(reader, expected, {}, _ALIGNMENT, any_type=True)
    return GGCCFile(header._replace(n_vocab=len(tokens)), tokens, merges, tensors)


def _check_header(reader: BinaryReader, header: Header) -> None:
    layers = max_layers(Family.FALCON, FileFormat.GGCC)
    for name, value, least, most in (
        ("n_vocab", header.n_vocab, _N_SPECIAL, 1 << 24),
        ("n_embd", header.n_embd, 1, 1 << 16),
        ("n_head", header.n_head, 1, 1 << 16),
        ("n_head_kv", header.n_head_kv, 1, 1 << 16),
        ("n_layer", header.n_layer, 1, layers),
        ("n_merges", header.n_merges, 0, 1 << 24),
        ("ftype", header.ftype, 0, 999),
    ):
        if not least <= value <= most:
            reader.fail(
                f"damaged, or too large for the engine: {name} is {value:,}, "
                f"and {least:,} to {most:,} are possible"
            )
    if header.n_embd % header.n_head or header.n_embd // header.n_head % 2:
        reader.fail(
            f"{header.n_head} attention heads do not divide a width of {header.n_embd} evenly"
        )
    if header.n_head % header.n_head_kv:
        reader.fail(
            f"{header.n_head_kv} key/value heads do not divide {header.n_head} attention heads"
        )
    if header.falcon_type not in (7, 40):
        reader.fail(f"damaged: its Falcon type is {header.falcon_type}, and must be 7 or 40")
    forced = _FORCED_TYPES.get(header.n_layer, header.falcon_type)
    if forced != header.falcon_type:
        reader.fail(
            f"its Falcon type is {header.falcon_type}, but the engine takes every model of "
            f"{header.n_layer} layers as type {forced}"
        )
    head_dim = header.n_embd // header.n_head
    for what, product in (
        ("cache", header.n_head_kv * head_dim * header.n_layer * N_CTX_TRAIN),
        ("vocabulary", header.n_vocab * header.n_embd),
        ("logits", 512 * header.n_vocab),
    ):
        if product > _INT_MAX:
            reader.fail(f"its {what} is too large for the engine: {product:,} elements")


def _check_merges(reader: BinaryReader, halves: list[bytes]) -> None:
    for half in halves:
        if not half or b" " in half:
            reader.fail(f"damaged: one of its merges has {half[:40]!r}")
    try:
        b" ".join(halves).decode()
    except UnicodeDecodeError:
        reader.fail("damaged: its merges are not UTF-8")


def ggcc_shapes(header: Header) -> Shapes:
    """Return shape and type of every tensor of a model; matrices may be of another type, too."""
    d, n_ff = header.n_embd, 4 * header.n_embd
    qkv = (header.n_head + 2 * header.n_head_kv) * (d // header.n_head)
    shapes: Shapes = {
        "transformer.word_embeddings.weight": ((d, header.n_vocab), F32),
        "transformer.ln_f.weight": ((d,), F32),
        "transformer.ln_f.bias": ((d,), F32),
        "lm_head.weight": ((d, header.n_vocab), F32),
    }
    norms = ("ln_mlp", "ln_attn") if header.falcon_type == 40 else ("input_layernorm",)
    for layer in range(header.n_layer):
        for norm in norms:
            shapes[f"transformer.h.{layer}.{norm}.weight"] = ((d,), F32)
            shapes[f"transformer.h.{layer}.{norm}.bias"] = ((d,), F32)
        for name, shape in (
            ("self_attention.query_key_value", (d, qkv)),
            ("self_attention.dense", (d, d)),
            ("mlp.dense_h_to_4h", (d, n_ff)),
            ("mlp.dense_4h_to_h", (n_ff, d)),
        ):
            shapes[f"transformer.h.{layer}.{name}.weight"] = (shape, F32)
    return shapes
