"""GPT-2's printable stand-in for each byte, in which byte-level BPE vocabularies are written."""


def _letters() -> tuple[str, ...]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


LETTERS = _letters()
"""The letter of each byte (Radford et al. 2019, ``bytes_to_unicode``)."""

BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(LETTERS)}
"""The byte of each letter."""

# What is no letter of GPT-2's becomes what is no letter of Latin-1.
_LATIN_OF_LETTER = dict.fromkeys(range(256), 0xFFFF) | {
    ord(letter): byte for letter, byte in BYTE_OF_LETTER.items()
}


def bytes_of(text: str) -> bytes | None:
    """Return the bytes that a text in these letters stands for; None if it is in others, too."""
    try:
        return text.translate(_LATIN_OF_LETTER).encode("latin-1")
    except UnicodeEncodeError:
        return None
