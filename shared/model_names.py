"""The names by which people call model families, and how many names one family has."""

from collections.abc import Mapping
from types import MappingProxyType

from shared.errors import UsageError
from shared.model_file import Family

MODEL_TYPES: Mapping[str, Family | None] = MappingProxyType(
    {
        "gguf": None,
        "llama": Family.LLAMA,
        "mistral": Family.LLAMA,
        "falcon": Family.FALCON,
        "refinedweb": Family.FALCON,
        "refinedwebmodel": Family.FALCON,
        "starcoder": Family.STARCODER,
        "gptbigcode": Family.STARCODER,
        "starchat": Family.STARCODER,
        "wizardcoder": Family.STARCODER,
        "santacoder": Family.STARCODER,
        "mpt": Family.MPT,
        "gpt2": Family.GPT2,
        "gptneox": Family.GPT_NEOX,
        "pythia": Family.GPT_NEOX,
        "stablelm": Family.GPT_NEOX,
        "redpajama": Family.GPT_NEOX,
        "dollyv2": Family.GPT_NEOX,
    }
)
"""Family per accepted spelling of ``MODEL_TYPE``, in lower case and without punctuation; None for
``gguf``, which any GGUF file is."""


def family_named(model_type: str) -> Family | None:
    """Return the family that a ``MODEL_TYPE`` names; None for ``gguf``.

    Raises:
        UsageError: there is none of that name.
    """
    plain = "".join(letter for letter in model_type.lower() if letter.isalnum())
    if plain not in MODEL_TYPES:
        known = ", ".join(["gguf", *(family.value for family in Family)])
        raise UsageError(f"MODEL_TYPE={model_type!r:.40} is not known; it can be {known}")
    return MODEL_TYPES[plain]
