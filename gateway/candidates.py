"""Which of the files of a folder or a repository is the model that is meant."""

import re
from collections.abc import Collection, Iterable, Sequence

from shared.errors import UsageError
from shared.model.split import part_names

SUFFIXES = (".gguf", ".bin", ".ggml")
# What training frameworks keep beside a model, and what llama.cpp does: projectors of images,
# statistics of a quantisation. Never a model of ours.
_NO_MODEL = re.compile(
    r"(pytorch_model|training_args|optimizer|adapter_model|rng_state|imatrix|.*mmproj)",
    re.ASCII | re.IGNORECASE,
)
_LISTED = 20
# A quantisation at the end of a name, or before the numbers of its parts.
_QUANTISATION = re.compile(
    r"(^|[-._/])(?P<label>(UD-)?(I?Q|TQ|MXFP|NVFP|BF|FP?)(?P<bits>\d{1,2})(_[A-Z0-9]+)*)"
    r"(-\d{5}-of-\d{5})?\.gguf",
    re.ASCII | re.IGNORECASE,
)
_USUAL, _USUAL_BITS = "Q4_K_M", 4


def choose(place: str, names: Iterable[str], model_file: str | None, tag: str | None = None) -> str:
    """Return the one name that is meant; of a model in several files that of the first.

    That is ``model_file``; or the only model there is, GGUF files before files of older formats; or
    of one model in several quantisations that of ``tag``, or else the one nearest to Q4_K_M.

    Raises:
        UsageError: it is not there, there is none, or there are several.
    """
    names = sorted(names)
    models = [name for name in names if _is_model(name)]
    listed = ", ".join(models or names[:_LISTED]) or "nothing"
    if not models and len(names) > _LISTED:
        listed += f" and {len(names) - _LISTED} more"
    if model_file:
        if model_file in names:
            return model_file
        raise UsageError(f"MODEL_FILE={model_file} is not in {place}; found there: {listed}")
    current = [name for name in models if name.lower().endswith(".gguf")]
    if tag is not None:
        current = [name for name in current if _is_of(name, tag)]
        if not current:
            raise UsageError(f"{place} holds no GGUF file of {tag}; found there: {listed}")
    candidates = current or models
    if len(candidates) == 1:
        return candidates[0]
    if usual := _nearest(candidates):
        return usual
    if candidates:
        listed = ", ".join(candidates) if tag else listed
        raise UsageError(f"{place} holds several models; pick one with MODEL_FILE: {listed}")
    raise _no_model(place, names, listed)


def _is_model(name: str) -> bool:
    file = name.rpartition("/")[2]
    is_first = part_names(file)[0] == file
    return is_first and file.lower().endswith(SUFFIXES) and not _NO_MODEL.match(file)


def _is_of(name: str, tag: str) -> bool:
    pattern = rf"(^|[-._/]){re.escape(tag)}[-./]"
    return re.search(pattern, name, re.IGNORECASE) is not None


def _nearest(names: Sequence[str]) -> str | None:
    """The file nearest to Q4_K_M; None if these are not quantisations of one model."""
    found = {name: _QUANTISATION.search(name) for name in names}
    labels = {name: match for name, match in found.items() if match}
    stems = {name[: match.start()].rpartition("/")[2] for name, match in labels.items()}
    if not labels or len(labels) < len(names) or len(stems) > 1:
        return None
    ranks = {name: _distance(match) for name, match in labels.items()}
    best = min(ranks.values())
    nearest = [name for name, rank in ranks.items() if rank == best]
    return nearest[0] if len(nearest) == 1 else None


def _distance(match: re.Match[str]) -> tuple[int, bool, bool, str]:
    """How far a quantisation is from the usual one: fewer bits are further than more."""
    label, more = match["label"].upper(), int(match["bits"]) - _USUAL_BITS
    return (more if more >= 0 else -5 * more, label != _USUAL, "_K" not in label, label)


def _no_model(place: str, names: Collection[str], listed: str) -> UsageError:
    if any(name.endswith(".safetensors") for name in names):
        return UsageError(
            f"{place} holds a model for PyTorch (*.safetensors), which this server does not read: "
            "name a repository with a GGUF file of the same model, or make one with llama.cpp's "
            "convert_hf_to_gguf.py"
        )
    wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
    return UsageError(f"{place} holds no model file ({wanted}); found there: {listed}")
