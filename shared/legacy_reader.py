"""Reads model files in the layouts of ggml's examples, and believes nothing that it finds there.

The library reads past errors: what is missing stays uninitialised, what is too large overflows. So
no such file reaches it that is not known to be whole and sound.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.binary_reader import BinaryReader, Data
from shared.errors import ModelFileError
from shared.ggml_types import FILE_TYPES
from shared.gguf import TensorInfo
from shared.legacy_checks import check_context_size, check_header
from shared.legacy_layouts import FLOAT_FIELDS, LAYOUTS, OPTIONAL_TENSORS, Layout, Served
from shared.model_file import Family
from shared.tensor_records import read_records

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
MAX_WORD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """A whole file in one of the layouts.

    Attributes:
        served: the family of that layout, and which fields its numbers are in.
        header: its fields by name.
        floats: those that are floating-point numbers.
        weight_type: type of the big matrices.
        quantisation: name of that type.
        tokens: each id's bytes.
        tensors: in the file's order.
    """

    served: Served
    header: Mapping[str, int]
    floats: Mapping[str, float]
    weight_type: int
    quantisation: str
    tokens: list[bytes]
    tensors: tuple[TensorInfo, ...]

    @property
    def n_embd(self) -> int:
        """Width of the hidden state."""
        return self.header[self.served.width]

    @property
    def n_ctx(self) -> int:
        """Context length in tokens."""
        return self.header[self.served.context]

    @property
    def n_head(self) -> int:
        """Attention heads."""
        return self.header[self.served.heads]

    @property
    def n_layer(self) -> int:
        """Transformer blocks."""
        return self.header[self.served.layers]


def read_legacy(path: Path, data: Data) -> LegacyFile:
    """Find the layout that a file is in, and read it.

    Raises:
        ModelFileError: none fits, the file is damaged, or its model is not served.
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
        return attempt.read()
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
        for field in self.layout.fields:
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

    def read(self) -> LegacyFile:
        served = self.layout.served
        if served is None:
            self.fail(_not_served(self.layout))
        weight_type = self.weight_type()
        check_header(self, served, self.header, self.floats, weight_type)
        if served.family is Family.MPT:
            self.tokens = [self.mpt_word(word) for word in self.tokens]
        expected = served.shapes(self.header, weight_type)
        try:
            tensors = read_records(self, expected, optional=OPTIONAL_TENSORS, alignment=1)
        except ModelFileError as error:
            self.check_version(_QUANTISED_SINCE, error)
            raise
        check_context_size(self, served.family, self.header, weight_type)
        return LegacyFile(
            served,
            self.header,
            self.floats,
            weight_type,
            _NAMES[self.header["ftype"] % _QUANTISATION_FACTOR],
            self.tokens,
            tensors,
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


def _not_served(layout: Layout) -> str:
    if "LLaMA" in layout.label:
        return f"{layout.label}: the engine no longer reads it; take a GGUF file of that model"
    if "Falcon" in layout.label:
        return f"{layout.label}: the engine cannot read it; take a GGUF or ggcc file of that model"
    return f"a {layout.label} model, which is not supported yet"
