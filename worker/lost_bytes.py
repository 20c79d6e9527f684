"""Vocabularies that a converter has spoilt, and as much as can be restored of them.

ggml's converter of GPT-NeoX models wrote what each token decodes to. The bytes of tokens that are
no whole characters became replacement characters, and with the 128 tokens of the single bytes from
0x80 on went every character that is spelt with them.
"""

from collections.abc import Sequence

from shared.byte_level import BYTE_OF_LETTER

_LOST = "\ufffd".encode()
# Training puts the single bytes first, in the order of their letters: all of them, or only those
# that occur in UTF-8.
_ALL = bytes(byte for _, byte in sorted(BYTE_OF_LETTER.items()))
_IN_UTF8 = bytes(byte for byte in _ALL if byte not in (0xC0, 0xC1) and byte < 0xF5)


def restore_bytes(tokens: Sequence[bytes]) -> Sequence[bytes]:
    """Return the vocabulary with the tokens of single bytes as they were before they were lost."""
    if count_lost(tokens) < 128 or b"!" not in tokens:
        return tokens
    first = tokens.index(b"!")
    for alphabet in (_ALL, _IN_UTF8):
        singles = [bytes((byte,)) for byte in alphabet]
        shown = [single.decode("utf-8", "replace").encode() for single in singles]
        if list(tokens[first : first + len(shown)]) == shown:
            return [*tokens[:first], *singles, *tokens[first + len(singles) :]]
    return tokens


def count_lost(tokens: Sequence[bytes]) -> int:
    """Count the tokens that are nothing but a replacement character; one at most should be."""
    return sum(raw == _LOST for raw in tokens)
