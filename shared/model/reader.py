"""Reads numbers and bytes of a model file that may be anything, never past its end."""

import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from shared.errors import ModelFileError, reason_of

INT_MAX = (1 << 31) - 1
Data = mmap.mmap | bytes
"""The bytes of a whole file."""


@contextmanager
def mapped(path: Path | str) -> Iterator[Data]:
    """Map a file into memory; only the pages that are looked at are read from disk.

    Raises:
        ModelFileError: it is no regular file, or cannot be read.
    """
    try:
        # Opening a named pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelFileError(f"{path}: not a file")
        with open(path, "rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes == 0:
                yield b""
                return
            data = mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read: {reason_of(error)}") from error
    with data:
        yield data


class BinaryReader:
    """A position in the bytes of a file. All numbers are little-endian.

    Every read raises `ModelFileError` where the file ends before.
    """

    def __init__(self, path: Path, data: Data) -> None:
        self.path = path  #: for messages
        self.data = data
        self.size = len(data)
        self.at = 0  #: where the next read begins

    def fail(self, problem: str) -> NoReturn:
        raise ModelFileError.about(self.path, problem)

    def check_range(self, name: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            self.fail(
                f"damaged, or too large for the engine: {name} is {value:,}, "
                f"and {least:,} to {most:,} are possible"
            )
        return value

    def check_products(self, products: Mapping[str, int]) -> None:
        """The library's loaders take most products as 32-bit integers."""
        for what, product in products.items():
            if product > INT_MAX:
                self.fail(f"its {what} is too large for the engine: {product:,} elements")

    def need(self, n_bytes: int) -> None:
        if n_bytes > self.size - self.at:
            self.fail(
                "the file is cut short or damaged: its header wants "
                f"{n_bytes:,} bytes at {self.at:,} of {self.size:,}"
            )

    def number(self, form: str) -> Any:
        """Read one number, of a `struct` format without its byte order."""
        (value,) = self.numbers(form)
        return value

    def numbers(self, form: str) -> tuple[Any, ...]:
        layout = struct.Struct("<" + form)
        self.need(layout.size)
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def raw(self, n_bytes: int) -> bytes:
        self.need(n_bytes)
        begin, self.at = self.at, self.at + n_bytes
        return self.data[begin : self.at]

    def skip(self, n_bytes: int) -> None:
        self.need(n_bytes)
        self.at += n_bytes

    def words(self, count: int, longest: int, length_form: str, gap: int = 0) -> list[bytes]:
        """Read strings with their lengths in front.

        A loop of its own: a vocabulary has a hundred thousand of these.

        Args:
            count: how many there are.
            longest: the most bytes that one may have.
            length_form: `struct` format of a length.
            gap: bytes after each string that are passed over.
        """
        layout = struct.Struct("<" + length_form)
        length_at, width = layout.unpack_from, layout.size
        data, size, at = self.data, self.size, self.at
        if count > (size - at) // (width + gap):
            self.fail(
                f"the file is cut short or damaged: {count:,} strings do not fit in the rest of it"
            )
        words: list[bytes] = []
        append = words.append
        for _ in range(count):
            begin = at + width
            if begin > size:
                break
            (length,) = length_at(data, at)
            end = begin + length
            if length > longest or end + gap > size:
                break
            append(data[begin:end])
            at = end + gap
        # Where reading has to stop, this is as far as the file makes sense.
        self.at = at
        if len(words) != count:
            self.fail(
                f"the file is cut short or damaged at string {len(words):,} of {count:,} "
                "(vocabulary or metadata)"
            )
        return words
