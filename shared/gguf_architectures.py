"""The architectures whose GGUF files ctransformers 0.2.27 reads."""

from collections.abc import Mapping
from types import MappingProxyType

from shared.gguf import GGUFFile
from shared.gguf_check import Architecture, check
from shared.gguf_falcon import FALCON
from shared.gguf_llama import LLAMA

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {one.family.value: one for one in (LLAMA, FALCON)}
)
_OF_LEGACY_FILES = frozenset({"starcoder", "mpt", "gpt2", "gptneox"})


def check_gguf(file: GGUFFile) -> None:
    """Check that ctransformers 0.2.27 can load the file and will compute what the model means.

    Raises:
        ModelFileError: it cannot, or it would ignore something that matters.
    """
    check(file, architecture_of(file))


def architecture_of(file: GGUFFile) -> Architecture:
    """Return what the library wants of the file.

    Raises:
        ModelFileError: it does not know the file's architecture.
    """
    known = ARCHITECTURES.get(file.architecture)
    if known is None:
        advice = ""
        if file.architecture in _OF_LEGACY_FILES:
            advice = (
                "; it serves this model as a legacy .bin file, or as one that "
                "'ggml-fastapi convert' makes of the original"
            )
        file.fail(
            f"its architecture is {file.architecture!r:.60}; "
            f"the engine reads only {' and '.join(ARCHITECTURES)} GGUF files{advice}"
        )
    return known
