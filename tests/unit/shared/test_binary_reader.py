"""Tests of the bounds of reading."""

import struct
from pathlib import Path

import pytest

from shared.errors import ModelFileError
from shared.model.reader import BinaryReader, mapped


def reader(content: bytes) -> BinaryReader:
    return BinaryReader(Path("file"), content)


def test_numbers_and_bytes() -> None:
    one = reader(struct.pack("<IhB", 70_000, -2, 3) + b"rest")
    assert (one.number("I"), one.numbers("hB"), one.raw(3), one.at) == (70_000, (-2, 3), b"res", 10)
    one.skip(1)
    with pytest.raises(ModelFileError, match="wants 1 bytes at 11"):
        one.raw(1)
    assert one.raw(0) == b""


@pytest.mark.parametrize("form", ["B", "I", "Q", "8i"])
def test_nothing_is_read_past_the_end(form: str) -> None:
    one = reader(bytes(struct.calcsize("<" + form) - 1))
    with pytest.raises(ModelFileError):
        one.numbers(form)
    assert one.at == 0


@pytest.mark.parametrize(("form", "gap"), [("I", 0), ("I", 4), ("Q", 0)])
def test_words(form: str, gap: int) -> None:
    words = [b"", b"a", b"\xff\0", b"x" * 1000]
    content = b"".join(struct.pack("<" + form, len(w)) + w + bytes(gap) for w in words)
    one = reader(content)
    assert one.words(4, 1000, form, gap) == words
    assert one.at == len(content)
    for cut in range(len(content)):
        with pytest.raises(ModelFileError, match="cut short or damaged"):
            reader(content[:cut]).words(4, 1000, form, gap)
    with pytest.raises(ModelFileError, match="at string 3 of 4"):
        reader(content).words(4, 999, form, gap)


@pytest.mark.parametrize("count", [1 << 31, 1 << 62])
def test_absurd_numbers_of_words(count: int) -> None:
    with pytest.raises(ModelFileError, match="strings do not fit"):
        reader(bytes(100)).words(count, 10, "I")


def test_a_message_is_one_line() -> None:
    with pytest.raises(ModelFileError, match=r"^file: a\\nb\\x1b\[2Jü$"):
        reader(b"").fail("a\nb\x1b[2Jü")


def test_mapped(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"content"):
        path.write_bytes(content)
        with mapped(path) as data:
            assert data[:] == content
    with pytest.raises(ModelFileError, match="cannot be read"), mapped("nul\0name"):
        pass
