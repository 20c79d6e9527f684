"""Gives the library a model file with a shorter context than the file itself has.

The loaders of some families take the context length from the file, and reserve the KV cache for
all of it: 15 GiB for a StarCoder of 15 billion parameters, which many machines refuse. They read
the file once, from start to end, so they can be given a named pipe that brings them the same file
with a smaller number in its header and as many position embeddings.
"""

import array
import fcntl
import os
import select
import struct
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import EngineError
from shared.model_file import Family, FileFormat, ModelFile

_N_CTX_AT = 8
"""Where the header has the context length: after the magic and ``n_vocab``, in all of these."""
_POSITIONS = "model/wpe"
_MAGIC_BYTES = 4
_FAMILIES = (Family.STARCODER, Family.GPT2, Family.GPT_NEOX)
_POLL_S = 0.002


@contextmanager
def shortened(file: ModelFile, n_ctx: int) -> Iterator[str]:
    """The path of ``file``, or of a pipe with a version of it whose context is ``n_ctx`` tokens.

    The pipe can be read once, the way the library does: it opens the file to look at the magic,
    closes it, and opens it again to read it all.

    Raises:
        EngineError: the library was content with less than all of the file.
    """
    ignores_parameter = file.file_format is FileFormat.GGML and file.family in _FAMILIES
    if not ignores_parameter or n_ctx == file.n_ctx_train:
        yield str(file.path)
        return
    with tempfile.TemporaryDirectory(prefix="ggml-fastapi-") as folder:
        path = os.path.join(folder, file.path.name)
        os.mkfifo(path, 0o600)
        # Open for both, so that it opens without a reader, and so that no reader's close breaks it.
        pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        abandoned, complete = threading.Event(), threading.Event()
        writer = threading.Thread(target=_write, args=(file, n_ctx, pipe, abandoned, complete))
        writer.start()
        try:
            yield path
        finally:
            abandoned.set()
            writer.join()
        if not complete.is_set():
            raise EngineError(f"{file.path}: the library has not read all of it")


def _write(
    file: ModelFile,
    n_ctx: int,
    pipe: int,
    abandoned: threading.Event,
    complete: threading.Event,
) -> None:
    """Write the shortened file into the pipe until the library has it all, or has given up."""
    with file.path.open("rb", buffering=0) as source:
        magic = source.read(_MAGIC_BYTES)
        parts = _parts(file, n_ctx)
        try:
            _send(magic, pipe, abandoned)
            _wait_until_read(pipe, abandoned)
            for part in parts:
                if isinstance(part, bytes):
                    _send(part, pipe, abandoned)
                else:
                    _send_range(source.fileno(), part, pipe, abandoned)
            # What is in a pipe that nobody has open is lost.
            _wait_until_read(pipe, abandoned)
            complete.set()
        except _AbandonedError:
            pass
        finally:
            os.close(pipe)


def _parts(file: ModelFile, n_ctx: int) -> list[bytes | range]:
    """The shortened file: new bytes, and ranges of the old file."""
    parts: list[bytes | range] = [range(_N_CTX_AT), struct.pack("<i", n_ctx)]
    at = _N_CTX_AT + 4
    # The file ends with the data of its last tensor.
    first_data_at = file.n_bytes - file.tensors[-1].offset - file.tensors[-1].n_bytes
    for tensor in file.tensors:
        if tensor.name == _POSITIONS:
            n_embd, n_positions = tensor.shape
            data_at = first_data_at + tensor.offset
            # In a tensor's record the dimensions are followed by its name, and that by its data.
            shape_at = data_at - len(_POSITIONS) - 8
            parts += [
                range(at, shape_at),
                struct.pack("<2i", n_embd, n_ctx),
                range(shape_at + 8, data_at + tensor.n_bytes // n_positions * n_ctx),
            ]
            at = data_at + tensor.n_bytes
    return [*parts, range(at, file.n_bytes)]


class _AbandonedError(Exception):
    """The library has stopped reading."""


def _send(content: bytes, pipe: int, abandoned: threading.Event) -> None:
    while content:
        _wait_for_room(pipe, abandoned)
        content = content[os.write(pipe, content) :]


def _send_range(source: int, part: range, pipe: int, abandoned: threading.Event) -> None:
    at = part.start
    while at < part.stop:
        _wait_for_room(pipe, abandoned)
        sent = os.sendfile(pipe, source, at, part.stop - at)
        if sent == 0:
            raise _AbandonedError  # the file has got shorter
        at += sent


def _wait_for_room(pipe: int, abandoned: threading.Event) -> None:
    while not select.select([], [pipe], [], _POLL_S)[1]:
        if abandoned.is_set():
            raise _AbandonedError


def _wait_until_read(pipe: int, abandoned: threading.Event) -> None:
    unread = array.array("i", [1])
    while fcntl.ioctl(pipe, termios.FIONREAD, unread) == 0 and unread[0]:
        if abandoned.wait(_POLL_S):
            raise _AbandonedError
