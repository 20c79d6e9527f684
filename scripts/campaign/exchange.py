"""One request over a connection of its own, sent and read in the manner of some client."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scripts.client import Answer, Connection, Ending, request

_PIECE_BYTES, _SLOW_PIECE_BYTES = 1 << 16, 512
_SLOW_READ_S = 0.02
_DRIP_PIECES = 8
_PROBE_WITHIN_S = 5.0


class Sendable(Protocol):
    """What can be sent."""

    @property
    def path(self) -> str: ...
    @property
    def content(self) -> bytes: ...
    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client behaves."""

    #: when it goes away, if it does: in the middle of its own body, ``after`` seconds since the
    #: request was sent, or after so many pieces of the answer
    leaves: Literal["", "sending", "waiting", "reading"] = ""
    after: float = 0.0
    resets: bool = False  #: it goes with a reset instead of an orderly close
    drips_s: float = 0.0  #: seconds over which it sends its body, piece by piece
    reads_slowly: bool = False  #: a few hundred bytes at a time, with pauses


PROMPT = Manner()
"""Sends at once, reads what comes, stays to the end."""


def draw_manner(source: random.Random) -> Manner:
    """A third of all clients leave, some others are slow."""
    match source.choices(
        ("stay", "sending", "waiting", "reading", "drips", "slow"), (50, 6, 18, 16, 5, 5)
    )[0]:
        case "sending":
            return Manner("sending", resets=source.random() < 0.5)
        case "waiting":
            return Manner("waiting", source.expovariate(8), source.random() < 0.5)
        case "reading":
            return Manner("reading", source.randint(1, 12), source.random() < 0.5)
        case "drips":
            return Manner(drips_s=source.uniform(0.1, 1.0))
        case "slow":
            return Manner(reads_slowly=True)
        case _:
            return PROMPT


class _Left(Exception):
    """The client goes."""


async def exchange(port: int, ask: Sendable, manner: Manner, patience_s: float) -> Answer:
    """Send a request to this machine's ``port``, and read the answer to its end.

    A client that has waited for ``patience_s`` seconds goes with a reset.
    """
    answer = Answer(time.monotonic())
    limit = _SLOW_PIECE_BYTES if manner.reads_slowly else _PIECE_BYTES
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    except OSError as error:
        answer.finish("not_connected", str(error))
        return answer
    resets = manner.resets
    try:
        if manner.reads_slowly:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.wait_for(_converse(reader, writer, ask, manner, answer), patience_s)
        answer.finish("complete")
    except _Left:
        answer.finish("left")
    except asyncio.TimeoutError:
        resets = True
        answer.finish("silent")
    except ConnectionError as error:
        answer.finish("broken", repr(error))
    finally:
        if resets:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 1)
    return answer


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    ask: Sendable,
    manner: Manner,
    answer: Answer,
) -> None:
    # A server may answer, and close, before it has all of the request.
    with contextlib.suppress(ConnectionError):
        await _send(writer, ask, manner)
    answer.sent_s = time.monotonic()
    waits_s = manner.after if manner.leaves == "waiting" else None
    try:
        await asyncio.wait_for(read_answer(reader, manner, answer), waits_s)
    except asyncio.TimeoutError:
        raise _Left from None


async def _send(writer: asyncio.StreamWriter, ask: Sendable, manner: Manner) -> None:
    content = request("POST", ask.path, ask.content, ask.headers)
    if manner.leaves == "sending":
        writer.write(content[: len(content) - len(ask.content) // 2])
        await writer.drain()
        raise _Left
    if manner.drips_s:
        step = max(1, -(-len(ask.content) // _DRIP_PIECES))
        head = len(content) - len(ask.content)
        writer.write(content[:head])
        for start in range(head, len(content), step):
            writer.write(content[start : start + step])
            await asyncio.sleep(manner.drips_s / _DRIP_PIECES)
    else:
        writer.write(content)
    await writer.drain()


async def read_answer(reader: asyncio.StreamReader, manner: Manner, answer: Answer) -> None:
    """Read the first answer; what is pipelined behind it is not waited for."""
    ending = Ending()
    n_bytes = _SLOW_PIECE_BYTES if manner.reads_slowly else _PIECE_BYTES
    while True:
        if manner.reads_slowly:
            await asyncio.sleep(_SLOW_READ_S)
            answer.own_delay_s += _SLOW_READ_S
        piece = await reader.read(n_bytes)
        if piece:
            answer.raw.append((time.monotonic(), piece))
        if not piece or ending.feed(piece):
            return
        if manner.leaves == "reading" and len(answer.raw) >= manner.after:
            raise _Left


class Probe:
    """A kept connection that asks for JSON."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(f"http://127.0.0.1:{port}", timeout_s=_PROBE_WITHIN_S)

    async def get(self, path: str = "/ready") -> Any:
        """The JSON at ``path``, whatever its status.

        Raises:
            OSError: the server cannot be reached, or does not answer in time.
        """
        return await asyncio.to_thread(self._connection.get, path)

    async def until(
        self, condition: Callable[[Any], bool], within_s: float, every_s: float = 0.005
    ) -> Any:
        """Ask ``/ready`` until what it says meets a condition; None if it does not in time."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError):
                status = await self.get()
                if condition(status):
                    return status
            await asyncio.sleep(every_s)
        return None

    def close(self) -> None:
        self._connection.close()
