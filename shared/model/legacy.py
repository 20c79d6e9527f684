"""Reads model files in the layouts of ggml's examples, and believes nothing that it finds there.

The layouts have neither a version nor a name of their model. A file begins with the magic number,
then the header fields, the vocabulary (a length and the bytes of each word) and the tensors,
without padding. Sources: ``llms/*.cc`` of ctransformers 0.2.27. That library reads past errors:
what is missing stays uninitialised, what is too large overflows. So no such file reaches it that is
not known to be whole and sound.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from shared.errors import ModelFileError
from shared.model.description import END_OF_TEXT, Dimensions, Family, FileFormat, ModelFile
from shared.model.layouts import FLOAT_FIELDS, LAYOUTS, Layout, shapes_of
from shared.model.memory import BATCH, LEGACY_BUFFER, legacy_buffers, max_layers, needs
from shared.model.reader import BinaryReader, Data
from shared.model.tensors import FILE_TYPES, TENSOR_TYPES, TensorInfo, read_records

MAX_WORD_BYTES = 1 << 16
_MAX_CONTEXT = 1 << 20
_MAX_WIDTH = 1 << 16
_QUANTISATION_FACTOR = 1000
"""``GGML_QNT_VERSION_FACTOR``: what is above it in a file type is the quantisation's version."""
_QUANTISATION_VERSION = 2
_LONGER_BEFORE = frozenset({2, 3, 7})
"""File types whose blocks got shorter with that version, so that their sizes tell what a file
holds; some tools left the version away."""
_QUANTISED_SINCE = frozenset(range(10, 15))
"""File types that came after that version."""
_WEIGHT_TYPES = {0: 0, 1: 1, 2: 2, 3: 3, 7: 8, 8: 6, 9: 7, 10: 10, 11: 11, 12: 12, 13: 13, 14: 14}
"""Type of the big matrices per file type (``ggml_ftype_to_ggml_type``; others end the process)."""
_NAMES = {**FILE_TYPES, 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}
"""From 11 on these files number their types otherwise than GGUF files do."""
_TIED_HEAD, _EMBEDDING = "model/lm_head", "model/wte"
"""The engine copies the embedding where a file has no such head."""
_FILL_IN_TOKENS = (b"<fim_prefix>", b"<fim-prefix>")


def read_legacy(path: Path, data: Data, wanted: Family | None = None) -> ModelFile:
    """Find the layout that a file is in, read it, and check it.

    Args:
        path: the file.
        data: its bytes.
        wanted: the family that it is expected to be of.

    Raises:
        ModelFileError: no layout fits, the file is damaged, or the engine could not serve it.
    """
    furthest: tuple[int, Layout, str] = (-1, LAYOUTS[0], "")
    for layout in LAYOUTS:
        attempt = _Attempt(path, data, layout)
        try:
            attempt.preamble()
        except ModelFileError as error:
            if attempt.at > furthest[0]:
                furthest = (attempt.at, layout, str(error).removeprefix(f"{path}: "))
            continue
        return attempt.read(wanted)
    reader = BinaryReader(path, data)
    _, layout, problem = furthest
    if reader.size < 64:
        reader.fail(f"the file is cut short: it has only {reader.size} bytes")
    reader.fail(
        "a GGML file, but cut short, damaged or of an unknown model; "
        f"read as {layout.label}: {problem}"
    )


class _Attempt(BinaryReader):
    """An attempt to read a file as one layout."""

    def __init__(self, path: Path, data: Data, layout: Layout) -> None:
        super().__init__(path, data)
        self.layout = layout
        self.header: dict[str, int] = {}
        self.floats: dict[str, float] = {}
        self.tokens: list[bytes] = []

    def preamble(self) -> None:
        """Read all up to the first tensor's name, by which the layout is known."""
        self.skip(4)
        for field in self.layout.fields.split():
            if field in FLOAT_FIELDS:
                self.floats[field] = self.number("f")
            else:
                self.header[field] = self.number("i")
        count = self.header["n_vocab"]
        if not 0 < count < 1 << 24:
            self.fail(f"damaged: its header's n_vocab is {count:,}")
        if self.layout.n_vocab_again:
            again = self.number("i")
            if again != count:
                self.fail(f"damaged: a vocabulary of {again:,} words where {count:,} are due")
        gap = 4 if self.layout.scored else 0
        self.tokens = self.words(count, MAX_WORD_BYTES, "I", gap)
        begin = self.at
        n_dims, length, _ = self.numbers("3i")
        if n_dims not in (1, 2) or not 1 <= length <= 255:
            self.fail(f"damaged: the first tensor has {n_dims} dimensions, its name {length} bytes")
        self.skip(4 * n_dims)
        name = self.raw(length)
        if not any(name.startswith(first.encode()) for first in self.layout.first_tensors):
            self.fail(f"damaged: the first tensor is called {name[:60]!r}")
        self.at = begin

    def read(self, wanted: Family | None) -> ModelFile:
        family, table = self.layout.family, self.layout.tensors
        if family is None or table is None:
            self.fail(_not_served(self.layout))
        weight_type = self.weight_type()
        size = self.size_of_model(family, weight_type)
        if family is Family.MPT:
            self.tokens = [self.mpt_word(word) for word in self.tokens]
        expected = shapes_of(table, size)
        try:
            tensors = read_records(self, expected, weight_type, optional=(_TIED_HEAD,))
        except ModelFileError as error:
            self.check_version(_QUANTISED_SINCE, error)
            raise
        if family is Family.STARCODER:
            family = _starcoder_or_gpt2(self.tokens, wanted)
        end = self.tokens.index(END_OF_TEXT) if END_OF_TEXT in self.tokens else None
        memory, n_ctx_most = needs(
            FileFormat.GGML, family, size, _weight_bytes(tensors), weight_type
        )
        details = {**self.floats}
        details |= {name: self.header[name] for name in ("n_rot", "par_res") if name in self.header}
        return ModelFile(
            path=self.path,
            n_bytes=self.size,
            file_format=FileFormat.GGML,
            family=family,
            name=self.path.stem,
            quantisation=_NAMES[self.header["ftype"] % _QUANTISATION_FACTOR],
            size=size,
            details=details,
            tokens=self.tokens,
            bos=end,
            eos=end,
            tensors=tensors,
            n_ctx_most=n_ctx_most,
            memory=memory,
        )

    def weight_type(self) -> int:
        version, ftype = divmod(self.header["ftype"], _QUANTISATION_FACTOR)
        if ftype not in _WEIGHT_TYPES or not 0 <= version <= _QUANTISATION_VERSION:
            self.fail(f"damaged, or unknown to the engine: its file type is {self.header['ftype']}")
        self.check_version(_QUANTISED_SINCE | _LONGER_BEFORE)
        return _WEIGHT_TYPES[ftype]

    def check_version(
        self, whatever_version: Collection[int], cause: ModelFileError | None = None
    ) -> None:
        """Check that blocks are in the engine's version, but for some file types."""
        version, ftype = divmod(self.header["ftype"], _QUANTISATION_FACTOR)
        if ftype > 1 and ftype not in whatever_version and version != _QUANTISATION_VERSION:
            raise ModelFileError.about(
                self.path,
                f"its {_NAMES[ftype]} weights are in version {version} of ggml's quantisation, and "
                f"the engine reads version {_QUANTISATION_VERSION}; convert the model again",
            ) from cause

    def mpt_word(self, word: bytes) -> bytes:
        """Undo the spelling of MPT files: each byte of a token is a letter of Latin-1."""
        try:
            return word.decode().encode("latin-1")
        except UnicodeError:
            self.fail(f"damaged: its vocabulary has {word[:40]!r}, which is not UTF-8 of Latin-1")

    def size_of_model(self, family: Family, weight_type: int) -> Dimensions:
        """The header's numbers, with which the library can compute."""
        n_ctx, n_embd, n_head, n_layer = (
            self.check_range(name, self.header[name], 1, most)
            for name, most in (
                ("n_ctx", _MAX_CONTEXT),
                ("n_embd", _MAX_WIDTH),
                ("n_head", _MAX_WIDTH),
                ("n_layer", max_layers(family, FileFormat.GGML)),
            )
        )
        n_vocab = self.header["n_vocab"]
        if n_embd % n_head:
            self.fail(f"{n_head} attention heads do not divide a width of {n_embd}")
        block = TENSOR_TYPES[weight_type][1]
        if n_embd % block:
            self.fail(f"a width of {n_embd} is no multiple of {block}, as its weights need")
        if family is Family.MPT:
            self.check_mpt()
        if family is Family.GPT_NEOX:
            self.check_neox(n_embd // n_head)
        self.check_products(
            {
                "vocabulary": n_vocab * n_embd,
                "feed-forward layer": 4 * n_embd * n_embd,
                "context": n_ctx * n_embd,
                "cache": n_layer * n_ctx * (n_embd if family is Family.STARCODER else 1),
                "logits": 512 * n_vocab,
            }
        )
        size = Dimensions(
            n_vocab=n_vocab,
            n_ctx_train=n_ctx,
            n_embd=n_embd,
            n_head=n_head,
            n_head_kv=n_head,
            n_layer=n_layer,
            n_ff=4 * n_embd,
        )
        buffers = legacy_buffers(family, size, weight_type)
        if buffers.longest(LEGACY_BUFFER, LEGACY_BUFFER) < min(n_ctx, BATCH):
            self.fail("it is too wide for the engine's evaluation buffers")
        return size

    def check_mpt(self) -> None:
        bias, clip = self.floats["alibi_bias_max"], self.floats["clip_qkv"]
        if not (math.isfinite(bias) and 0 < bias <= 1024):
            self.fail(
                f"its alibi_bias_max is {bias}, and must be positive (8 is usual): the engine knows"
                " only MPT models with ALiBi"
            )
        if not (math.isfinite(clip) and clip >= 0):
            self.fail(f"damaged: its clip_qkv is {clip}")

    def check_neox(self, head_dim: int) -> None:
        n_rot, par_res = self.header["n_rot"], self.header["par_res"]
        if not 2 <= n_rot <= head_dim or n_rot % 2:
            self.fail(
                f"damaged: n_rot is {n_rot}, and must be an even number up to the {head_dim} of a"
                " head"
            )
        if par_res not in (0, 1):
            self.fail(f"damaged: par_res is {par_res}, and must be 0 or 1")


def _weight_bytes(tensors: Sequence[TensorInfo]) -> int:
    sizes = {tensor.name: tensor.n_bytes for tensor in tensors}
    copied = sizes[_EMBEDDING] if _EMBEDDING in sizes and _TIED_HEAD not in sizes else 0
    return sum(sizes.values()) + copied


def _starcoder_or_gpt2(tokens: list[bytes], wanted: Family | None) -> Family:
    """Tell StarCoder from GPT-2: their files, and what the engine computes, are the same.

    Their tokenizers differ. StarCoder has fill-in-the-middle tokens and splits numbers into digits;
    GPT-2 has numbers of several digits and ends in ``<|endoftext|>``.
    """
    if wanted in (Family.STARCODER, Family.GPT2):
        return wanted
    if any(token in _FILL_IN_TOKENS for token in tokens):
        return Family.STARCODER
    if any(len(token) > 1 and token.isdigit() for token in tokens) or tokens[-1] == END_OF_TEXT:
        return Family.GPT2
    return Family.STARCODER


def _not_served(layout: Layout) -> str:
    if "LLaMA" in layout.label:
        return f"{layout.label}: the engine no longer reads it; take a GGUF file of that model"
    if "Falcon" in layout.label:
        return f"{layout.label}: the engine cannot read it; take a GGUF or ggcc file of that model"
    return f"a {layout.label} model, which is not supported yet"
