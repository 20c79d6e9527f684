"""GPT-2's printable stand-in for each byte, in which byte-level BPE vocabularies are written."""


def _letters() -> tuple[str, ...]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


LETTERS = _letters()
"""The letter of each byte (Radford et al. 2019, ``bytes_to_unicode``)."""

BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(LETTERS)}
"""The byte of each letter."""
