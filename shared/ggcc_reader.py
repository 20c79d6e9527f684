"""Reads Falcon models in ``ggcc`` files (ggllm.cpp, version 10), and believes nothing in them.

Source: ``ggml/libfalcon.cpp`` of ctransformers 0.2.27.
"""

from collections.abc import Mapping
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
_N_SPECIAL = 12
"""The first ids, which the library looks up without asking how many there are."""
_ALIGNMENT = 32
_INT_MAX = (1 << 31) - 1
_EMBEDDING, _HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
_LAYERS_OF_7B, _LAYERS_OF_40B = 32, 60
"""Numbers of layers by which the library knows one of the two kinds, whatever the header says."""
_VOCABULARY, _PADDED = 65_024, 65_025
_PADDED_WIDTHS = (4544, 8192)
"""Some fine-tuned models have one more token, ``[PAD]``, which the library leaves out. Files that
ggllm.cpp has quantised lack the word, too, but keep its row in both matrices. Of matrices of these
widths the library maps all rows but that; of other widths it takes none that has a row too many."""


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

    @property
    def is_40b(self) -> bool:
        """Whether each layer has two norms; some 40B files have the other type in their header."""
        return self.falcon_type == 40 or self.n_layer == _LAYERS_OF_40B


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
    also = _padding(reader, header.n_embd, tokens)
    header = header._replace(n_vocab=len(tokens))
    tensors = read_records(reader, ggcc_shapes(header), {}, _ALIGNMENT, any_type=True, also=also)
    return GGCCFile(header, tokens, merges, tensors)


def _padding(
    reader: BinaryReader, n_embd: int, tokens: list[bytes]
) -> Mapping[str, tuple[int, int]]:
    """Take the padding token out of a vocabulary, and return what shapes matrices may have then."""
    is_known_width = n_embd in _PADDED_WIDTHS
    if len(tokens) == _PADDED:
        if tokens[-1] == b"[PAD]" and is_known_width:
            tokens.pop()
        elif tokens[-1] == b"[PAD]":
            reader.fail(f"its vocabulary ends in [PAD], which needs a width of {_PADDED_WIDTHS}")
        elif is_known_width:
            # It would still take a row less of each matrix, and read logits that are not there.
            reader.fail(
                f"its vocabulary has {_PADDED:,} tokens; at a width of {n_embd} the engine can "
                f"leave out the last one only if that is [PAD], not {tokens[-1][:40]!r}"
            )
    if len(tokens) == _VOCABULARY and is_known_width:
        return dict.fromkeys((_EMBEDDING, _HEAD), (n_embd, _PADDED))
    return {}


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
    if header.is_40b and header.n_layer == _LAYERS_OF_7B:
        reader.fail(
            f"its Falcon type is {header.falcon_type}, but the engine takes every model of "
            f"{header.n_layer} layers as type 7"
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
        _EMBEDDING: ((d, header.n_vocab), F32),
        "transformer.ln_f.weight": ((d,), F32),
        "transformer.ln_f.bias": ((d,), F32),
        _HEAD: ((d, header.n_vocab), F32),
    }
    norms = ("ln_mlp", "ln_attn") if header.is_40b else ("input_layernorm",)
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
