"""Which families of models can be converted, and to which layouts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UsageError
from worker.convert import falcon, gpt2, gpt_bigcode, gpt_neox, llama, mpt
from worker.convert.layout import Format, Layout, Request
from worker.convert.source import ModelFolder


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model.

    Attributes:
        formats: layouts that it can be written in, the usual one first.
        layout: plans a file.
    """

    formats: tuple[Format, ...]
    layout: Callable[[ModelFolder, Request], Layout]


FAMILIES = {
    "falcon": Family((Format.GGCC, Format.GGUF), falcon.layout),
    "gpt_bigcode": Family((Format.GGML,), gpt_bigcode.layout),
    "gpt2": Family((Format.GGML,), gpt2.layout),
    "gpt_neox": Family((Format.GGML,), gpt_neox.layout),
    "llama": Family((Format.GGUF,), llama.layout),
    "mpt": Family((Format.GGML,), mpt.layout),
}
"""By the ``model_type`` of ``config.json``."""


def family_of(folder: ModelFolder) -> Family:
    """Return the family of a model.

    Raises:
        UsageError: it is none that the engine has.
    """
    model_type = folder.config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        folder.config.fail(
            f"model_type is {model_type!r:.60}; known are: {', '.join(sorted(FAMILIES))}"
        )
    return family


def choose_format(family: Family, target: Path, wanted: Format | None) -> Format:
    """Return the layout that is asked for, or else the one that the target's name stands for.

    Raises:
        UsageError: the family has no such layout, or the name promises another.
    """
    has_gguf_name = target.suffix.lower() == ".gguf"
    if wanted is None:
        named = [form for form in family.formats if (form is Format.GGUF) == has_gguf_name]
        wanted = named[0] if named else family.formats[0]
    if wanted not in family.formats:
        names = " and ".join(form.value for form in family.formats)
        raise UsageError(f"--format {wanted.value}: the engine reads this family as {names}")
    if (wanted is Format.GGUF) != has_gguf_name:
        suffix = ".gguf" if wanted is Format.GGUF else ".bin"
        raise UsageError(f"{target}: a file in the {wanted.value} layout should end in {suffix}")
    return wanted
