"""Reads Falcon models in ``ggcc`` files (ggllm.cpp, version 10), and believes nothing in them.

Source: ``ggml/libfalcon.cpp`` of ctransformers 0.2.27.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from shared.model.description import (
    BPE_EOS,
    END_OF_TEXT,
    Dimensions,
    Family,
    FileFormat,
    ModelFile,
)
from shared.model.layouts import ggcc, shapes_of
from shared.model.legacy import MAX_WORD_BYTES
from shared.model.memory import BATCH, max_layers, needs
from shared.model.reader import BinaryReader, Data
from shared.model.tensors import TENSOR_TYPES, dominant_type, read_records

VERSION = 10
N_CTX_TRAIN = 2048
"""Falcon's context length, which these files do not name."""
_N_SPECIAL = 12
"""The first ids, which the library looks up without asking how many there are."""
_ALIGNMENT = 32
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

    def size(self, n_vocab: int) -> Dimensions:
        return Dimensions(
            n_vocab=n_vocab,
            n_ctx_train=N_CTX_TRAIN,
            n_embd=self.n_embd,
            n_head=self.n_head,
            n_head_kv=self.n_head_kv,
            n_layer=self.n_layer,
            n_ff=4 * self.n_embd,
        )


def read_ggcc(path: Path, data: Data) -> ModelFile:
    """Read a file, check that it is whole and that the library can compute with it.

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
    merges = _merges(reader, header.n_merges)
    also = _padding(reader, header.n_embd, tokens)
    size = header.size(len(tokens))
    tensors = read_records(
        reader, shapes_of(ggcc(header.is_40b), size), None, alignment=_ALIGNMENT, also=also
    )
    weight_type = dominant_type(tensors)
    weights = sum(tensor.n_bytes for tensor in tensors)
    memory, n_ctx_most = needs(
        FileFormat.GGCC, Family.FALCON, size, weights, weight_type, header.is_40b
    )
    if n_ctx_most < BATCH:
        reader.fail("it is too wide for the engine's evaluation buffers")
    end = BPE_EOS if tokens[BPE_EOS] == END_OF_TEXT else None
    return ModelFile(
        path=path,
        n_bytes=reader.size,
        file_format=FileFormat.GGCC,
        version=VERSION,
        family=Family.FALCON,
        name=path.stem,
        quantisation=TENSOR_TYPES[weight_type][0],
        size=size,
        details={"falcon_type": 40 if header.is_40b else 7},
        tokens=tokens,
        merges=merges,
        bos=end,
        eos=end,
        tensors=tensors,
        n_ctx_most=n_ctx_most,
        memory=memory,
    )


def _merges(reader: BinaryReader, due: int) -> list[bytes]:
    n_merges = reader.number("i")
    if n_merges != due:
        reader.fail(f"damaged: {n_merges:,} merges where {due:,} are due")
    halves = reader.words(2 * n_merges, MAX_WORD_BYTES, "I")
    for half in halves:
        if not half or b" " in half:
            reader.fail(f"damaged: one of its merges has {half[:40]!r}")
    try:
        b" ".join(halves).decode()
    except UnicodeDecodeError:
        reader.fail("damaged: its merges are not UTF-8")
    return list(map(b" ".join, zip(halves[::2], halves[1::2], strict=True)))


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
        matrices = ("transformer.word_embeddings.weight", "lm_head.weight")
        return dict.fromkeys(matrices, (n_embd, _PADDED))
    return {}


def _check_header(reader: BinaryReader, header: Header) -> None:
    for name, value, least, most in (
        ("n_vocab", header.n_vocab, _N_SPECIAL, 1 << 24),
        ("n_embd", header.n_embd, 1, 1 << 16),
        ("n_head", header.n_head, 1, 1 << 16),
        ("n_head_kv", header.n_head_kv, 1, 1 << 16),
        ("n_layer", header.n_layer, 1, max_layers(Family.FALCON, FileFormat.GGCC)),
        ("n_merges", header.n_merges, 0, 1 << 24),
        ("ftype", header.ftype, 0, 999),
    ):
        reader.check_range(name, value, least, most)
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
    reader.check_products(
        {
            "cache": header.n_head_kv * head_dim * header.n_layer * N_CTX_TRAIN,
            "vocabulary": header.n_vocab * header.n_embd,
            "logits": 512 * header.n_vocab,
        }
    )
