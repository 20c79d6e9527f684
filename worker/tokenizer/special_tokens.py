"""Which tokens of a BPE vocabulary were added to it after its training, where the file is silent.

Legacy files say of no token what it is, so the tokens that their families' tokenizers have are
known here by their texts. That cannot hit a token of ordinary text: training makes tokens within
the pieces that the pre-tokenizer cuts, and each family's cuts every one of these texts in two.
"""

import re
from collections.abc import Iterable

from shared.model.description import Family, ModelFile, TokenizerKind
from shared.model.gguf import TokenType

STARCODER_FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
SANTACODER_FIM = ("<fim-prefix>", "<fim-suffix>", "<fim-middle>")

# Chat formats and separators in the style of GPT-2's <|endoftext|>, in models of every family.
_BARRED = re.compile(r"<\|\w{1,40}\|>|\[PAD\]", re.ASCII)

FAMILY_TOKENS: dict[Family, frozenset[str]] = {
    Family.STARCODER: frozenset(
        {
            *STARCODER_FIM, "<fim_pad>", *SANTACODER_FIM, "<fim-pad>",
            "<filename>", "<gh_stars>", "<reponame>",
            "<issue_start>", "<issue_comment>", "<issue_closed>",
            "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>",
            "<empty_output>", "<commit_before>", "<commit_msg>", "<commit_after>",
        }
    ),
    Family.FALCON: frozenset(
        f">>{name}<<"
        for name in (
            "TITLE", "ABSTRACT", "INTRODUCTION", "SUMMARY", "COMMENT", "ANSWER", "QUESTION",
            "DOMAIN", "PREFIX", "SUFFIX", "MIDDLE",
        )
    ),
    # Dolly's.
    Family.GPT_NEOX: frozenset({"### Instruction:", "### Response:", "### Response:\n", "### End"}),
}  # fmt: skip
"""Texts of the special tokens of each family, besides those in the style of ``<|endoftext|>``."""

_SPACE_RUNS = [b" " * length for length in range(24, 1, -1)]


def find_special(file: ModelFile) -> dict[str, int]:
    """Return the texts and ids of the tokens that ordinary text never yields."""
    if file.token_types is not None:
        marked = _first_ids(
            (text, token)
            for token, (text, kind) in enumerate(zip(file.tokens, file.token_types, strict=True))
            if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
            and not (kind == TokenType.USER_DEFINED and text.isspace())
        )
        if marked or file.tokenizer is TokenizerKind.SENTENCEPIECE:
            return marked
    names = FAMILY_TOKENS.get(file.family, frozenset()) if file.family else frozenset[str]()
    return _first_ids(
        (text, token)
        for token, text in enumerate(file.tokens)
        # The shortest and the longest of them; most tokens need no closer look.
        if 5 <= len(text) <= 44
        and text[:1] in b"<>[#"
        and _is_special(text.decode("utf-8", "replace"), names)
    )


def find_added(file: ModelFile) -> dict[str, int]:
    """Return the texts and ids of added tokens that ordinary text yields: runs of whitespace.

    GPT-NeoX's tokenizer, which is also MPT's, got 23 runs of spaces one after another.
    """
    if file.token_types is not None:
        return _first_ids(
            (text, token)
            for token, (text, kind) in enumerate(zip(file.tokens, file.token_types, strict=True))
            if kind == TokenType.USER_DEFINED and text.isspace()
        )
    tokens, count = file.tokens, len(_SPACE_RUNS)
    for first, text in enumerate(tokens):
        if text == _SPACE_RUNS[0] and list(tokens[first : first + count]) == _SPACE_RUNS:
            return _first_ids((text, first + place) for place, text in enumerate(_SPACE_RUNS))
    return {}


def _is_special(text: str, names: frozenset[str]) -> bool:
    return text in names or _BARRED.fullmatch(text) is not None


def _first_ids(found: Iterable[tuple[bytes, int]]) -> dict[str, int]:
    """By text; of several ids the first, since converters fill up with copies of the last token."""
    ids: dict[str, int] = {}
    for text, token in found:
        if text:
            ids.setdefault(text.decode("utf-8", "replace"), token)
    return ids
