"""Gives the library a model file with a shorter context than the file itself has.

The loaders of some families take the context length from the file, and reserve the KV cache for
all of it: 15 GiB for a StarCoder of 15 billion parameters, which many machines refuse. They read
the file once, from start to end, so they can be given a named pipe that brings them the same file
with a smaller number in its header and as many position embeddings.
"""

import array
import errno
import fcntl
import os
import select
import struct
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from shared.errors import EngineError
from shared.model.description import Family, FileFormat, ModelFile

_N_CTX_AT = 8
"""Where the header has the context length: after the magic and ``n_vocab``, in all of these."""
_POSITIONS = "model/wpe"
_MAGIC_BYTES = 4
_FAMILIES = (Family.STARCODER, Family.GPT2, Family.GPT_NEOX)
_PIPE_BYTES = 1 << 20
_POLL_S = 0.002


@contextmanager
def shortened(file: ModelFile, n_ctx: int) -> Iterator[str]:
    """The path of ``file``, or of a pipe with a version of it whose context is ``n_ctx`` tokens.

    The pipe can be read once, the way the library does: it opens the file to look at the magic,
    closes it, and opens it again to read it all.

    Raises:
        EngineError: the file cannot be read, or the library was content with less than all of it.
    """
    ignores_parameter = file.file_format is FileFormat.GGML and file.family in _FAMILIES
    if not ignores_parameter or n_ctx == file.n_ctx_train:
        yield str(file.path)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ggml-fastapi-"))
        try:
            source = stack.enter_context(file.path.open("rb", buffering=0))
        except OSError as error:
            raise EngineError(f"{file.path}: cannot be read: {error.strerror}") from error
        path = os.path.join(folder, file.path.name)
        os.mkfifo(path, 0o600)
        # Open for both, so that it opens without a reader, and so that no reader's close breaks it.
        pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        # Twice as fast as the default of 64 KiB, which serves where the user may have no more.
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        writer = _Writer(source.fileno(), _parts(file, n_ctx), pipe)
        writer.start()
        try:
            yield path
        finally:
            writer.abandoned.set()
            writer.join()
        if writer.problem:
            raise EngineError(f"{file.path}: {writer.problem}")


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


class _Writer(threading.Thread):
    """Writes into the pipe, and closes it at the end."""

    def __init__(self, source: int, parts: list[bytes | range], pipe: int) -> None:
        super().__init__(name="shortened", daemon=True)
        self.abandoned = threading.Event()  #: set when the library will read no more
        self.problem = "the library has not read all of it"  #: empty if it has
        self._source, self._parts, self._pipe = source, parts, pipe

    def run(self) -> None:
        try:
            try:
                self._send_range(range(_MAGIC_BYTES))
                self._wait_until_read()
                for part in self._parts:
                    if isinstance(part, bytes):
                        self._send(part)
                    else:
                        self._send_range(part)
                # What is in a pipe that nobody has open is lost.
                self._wait_until_read()
                self.problem = ""
            except OSError as error:
                self.problem = f"cannot be read: {error.strerror}"
                # The library may be about to open the pipe again, and would wait for a writer:
                # so there is something to be read first, and the end after that.
                with suppress(BlockingIOError):
                    os.write(self._pipe, bytes(_MAGIC_BYTES))
                self._wait_until_read()
        except _AbandonedError:
            pass
        finally:
            os.close(self._pipe)

    def _send(self, content: bytes) -> None:
        while content:
            self._wait_for_room()
            content = content[os.write(self._pipe, content) :]

    def _send_range(self, part: range) -> None:
        at = part.start
        while at < part.stop:
            self._wait_for_room()
            sent = os.sendfile(self._pipe, self._source, at, part.stop - at)
            if sent == 0:
                raise OSError(errno.EIO, "it got shorter meanwhile")
            at += sent

    def _wait_for_room(self) -> None:
        while not select.select([], [self._pipe], [], _POLL_S)[1]:
            if self.abandoned.is_set():
                raise _AbandonedError

    def _wait_until_read(self) -> None:
        unread = array.array("i", [1])
        while fcntl.ioctl(self._pipe, termios.FIONREAD, unread) == 0 and unread[0]:
            if self.abandoned.wait(_POLL_S):
                raise _AbandonedError
