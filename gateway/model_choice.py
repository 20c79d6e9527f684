"""Picks the one model file that is meant among the names in a folder or repository."""

import re
from collections.abc import Iterable

from shared.errors import UsageError

MODEL_SUFFIXES = (".gguf", ".bin", ".ggml")
TOKENIZER_NAME = "tokenizer.json"
_LISTED = 20
# What training frameworks keep beside a model; never a model of ours.
_NO_MODEL = re.compile(r"(pytorch_model|training_args|optimizer|adapter_model|rng_state)", re.ASCII)


def choose(place: str, names: Iterable[str], model_file: str | None) -> str:
    """Return the one name that is meant: ``model_file``, or the only model there is.

    GGUF files go before files of the older formats.

    Args:
        place: where these names are, for the message.
        names: paths relative to that place.
        model_file: which one the user asks for; None for the only one.

    Raises:
        UsageError: it is not there, there is none, or there are several.
    """
    names = sorted(names)
    if model_file:
        if model_file in names:
            return model_file
        raise UsageError(f"MODEL_FILE={model_file} is not in {place}; {_found(names)}")
    candidates = _models(names)
    if any(name.lower().endswith(".gguf") for name in candidates):
        candidates = [name for name in candidates if name.lower().endswith(".gguf")]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UsageError(
            f"{place} holds several models; pick one with MODEL_FILE: {_listed(candidates)}"
        )
    wanted = ", ".join(f"*{suffix}" for suffix in MODEL_SUFFIXES)
    raise UsageError(f"{place} holds no model file ({wanted}); {_found(names)}")


def _models(names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name.lower().endswith(MODEL_SUFFIXES) and not _NO_MODEL.match(name.rpartition("/")[2])
    ]


def _found(names: list[str]) -> str:
    return f"found there: {_listed(_models(names) or names)}"


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
