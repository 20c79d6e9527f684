"""Names the way in which a ``tokenizer.json`` cuts text into words before it merges bytes."""

from typing import Any, TypeAlias

_Stage: TypeAlias = tuple[Any, ...]

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2: _Stage = ("ByteLevel", True)
_NAMES: dict[tuple[_Stage, ...], str] = {
    (_GPT2,): "gpt-2",
    (("Digits", True), _GPT2): "smollm",
    (
        ("Punctuation", "Contiguous"),
        _GPT2,
        ("Digits", False),
        ("Split", "[0-9][0-9][0-9]", "Isolated", False),
    ): "falcon",
    (("Split", _LLAMA3_PATTERN, "Isolated", False), ("ByteLevel", False)): "llama-bpe",
}
"""The stages of each, by llama.cpp's name; StarCoder's are SmolLM's."""

NAMES = tuple(_NAMES.values())
"""The names that `recognise` knows."""


def recognise(pre_tokenizer: Any) -> str | None:
    """Return llama.cpp's name (``tokenizer.ggml.pre``) for the ``pre_tokenizer`` of a tokenizer.

    None if it has none, or splits in a way that is not known.
    """
    if not isinstance(pre_tokenizer, dict):
        return None
    stages = [pre_tokenizer]
    if pre_tokenizer.get("type") == "Sequence":
        stages = pre_tokenizer.get("pretokenizers", [])
    return _NAMES.get(tuple(_stage(stage) for stage in stages))


def _stage(stage: dict[str, Any]) -> _Stage:
    match stage.get("type"):
        case "ByteLevel" if not stage.get("add_prefix_space", True):
            return "ByteLevel", stage.get("use_regex", True)
        case "Digits":
            return "Digits", stage.get("individual_digits", False)
        case "Punctuation":
            return "Punctuation", stage.get("behavior", "Isolated")
        case "Split":
            pattern = stage.get("pattern", {})
            text = pattern.get("Regex", pattern.get("String"))
            return "Split", text, stage.get("behavior"), stage.get("invert", False)
    return ("unknown",)
