"""Tests of GPT-2's letters for bytes."""

import pytest

from shared.model.byte_level import BYTE_OF_LETTER, LETTERS, bytes_of
from tests.gguf_files import byte_letters


def test_every_byte_has_a_letter() -> None:
    assert list(LETTERS) == byte_letters()
    assert bytes_of("".join(LETTERS)) == bytes(range(256))
    assert [BYTE_OF_LETTER[letter] for letter in LETTERS] == list(range(256))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", b""),
        ("Ġhello", b" hello"),
        ("Ã©", "é".encode()),
        ("two words", None),
        ("\n", None),
        ("\xad", None),
        ("日", None),
        ("\ud800", None),
        ("\uffff", None),
    ],
)
def test_texts(text: str, expected: bytes | None) -> None:
    assert bytes_of(text) == expected
