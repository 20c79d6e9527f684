"""One request over a connection of its own, sent and read in the manner of some client."""

import asyncio
import contextlib
import json
import random
import socket
import time
from dataclasses import dataclass
from typing import Literal

import h11

from scripts.campaign.ask import Answer, Ask, Rubbish

_PIECE_BYTES = 1 << 16
_SLOW_PIECE_BYTES = 512
_SLOW_READ_S = 0.02
_DRIP_PIECES = 8


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client behaves.

    Attributes:
        leaves: when it goes away, if it does: in the middle of its own body, so many seconds after
            the request was sent, or after so many pieces of the answer.
        after: the seconds or pieces.
        resets: it goes with a reset instead of an orderly close.
        drips_s: seconds over which it sends its body, piece by piece.
        reads_slowly: it reads a few hundred bytes at a time, with pauses.
    """

    leaves: Literal["", "sending", "waiting", "reading"] = ""
    after: float = 0.0
    resets: bool = False
    drips_s: float = 0.0
    reads_slowly: bool = False


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


async def exchange(port: int, ask: Ask | Rubbish, manner: Manner, patience_s: float) -> Answer:
    """Send a request to this machine's ``port``, and read the answer to its end.

    Args:
        port: where the server listens.
        ask: what to send.
        manner: how.
        patience_s: seconds after which the client has waited long enough for anything.
    """
    answer = Answer(began_s=time.monotonic())
    http = h11.Connection(h11.CLIENT)
    limit = _SLOW_PIECE_BYTES if manner.reads_slowly else _PIECE_BYTES
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    except OSError as error:
        answer.end, answer.why, answer.ended_s = "not_connected", str(error), time.monotonic()
        return answer
    resets = manner.resets
    try:
        if manner.reads_slowly:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.wait_for(_converse(http, reader, writer, ask, manner, answer), patience_s)
    except _Left:
        answer.end = "left"
    except asyncio.TimeoutError:
        answer.end, resets = "silent", True
    except (h11.RemoteProtocolError, ConnectionError) as error:
        answer.end, answer.why = "broken", repr(error)
    finally:
        answer.ended_s = time.monotonic()
        answer.sent_s = answer.sent_s or answer.ended_s
        if resets:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 1)
    return answer


async def _converse(
    http: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    ask: Ask | Rubbish,
    manner: Manner,
    answer: Answer,
) -> None:
    # A server may answer, and close, before it has all of the request.
    with contextlib.suppress(ConnectionError):
        await _send(http, writer, ask, manner, answer)
    answer.sent_s = time.monotonic()
    await _receive(http, reader, manner, answer)


async def _send(
    http: h11.Connection,
    writer: asyncio.StreamWriter,
    ask: Ask | Rubbish,
    manner: Manner,
    answer: Answer,
) -> None:
    content = ask.content if isinstance(ask, Rubbish) else json.dumps(ask.body).encode()
    named = {name.lower() for name, _ in ask.headers}
    headers = [("Host", "localhost"), ("Content-Length", str(len(content))), *ask.headers]
    if "content-type" not in named:
        headers.append(("Content-Type", "application/json"))
    method = ask.method if isinstance(ask, Rubbish) else "POST"
    writer.write(http.send(h11.Request(method=method, target=ask.path, headers=headers)) or b"")
    if manner.leaves == "sending":
        writer.write(content[: len(content) // 2])
        await writer.drain()
        raise _Left
    if manner.drips_s:
        step = max(1, -(-len(content) // _DRIP_PIECES))
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
            await asyncio.sleep(manner.drips_s / _DRIP_PIECES)
        http.send(h11.Data(data=content))
    else:
        writer.write(http.send(h11.Data(data=content)) or b"")
    http.send(h11.EndOfMessage())
    await writer.drain()


async def _receive(
    http: h11.Connection, reader: asyncio.StreamReader, manner: Manner, answer: Answer
) -> None:
    leaves_at_s = answer.sent_s + manner.after if manner.leaves == "waiting" else None
    while True:
        event = http.next_event()
        match event:
            case h11.NEED_DATA:
                if manner.reads_slowly:
                    await asyncio.sleep(_SLOW_READ_S)
                    answer.own_delay_s += _SLOW_READ_S
                http.receive_data(await _read(reader, manner, leaves_at_s))
            case h11.Response():
                answer.status = event.status_code
                answer.headers = {
                    name.decode().lower(): value.decode("latin-1") for name, value in event.headers
                }
            case h11.Data():
                answer.body += event.data
                answer.content_s.append(time.monotonic())
                if manner.leaves == "reading" and len(answer.content_s) >= manner.after:
                    raise _Left
            case h11.EndOfMessage():
                answer.end = "complete"
                answer.trailing = http.trailing_data[0]
                return
            case h11.ConnectionClosed():
                answer.end, answer.why = "broken", "closed without an answer"
                return
            case h11.PAUSED:
                raise h11.RemoteProtocolError("another protocol")


async def _read(reader: asyncio.StreamReader, manner: Manner, leaves_at_s: float | None) -> bytes:
    if leaves_at_s is None:
        return await reader.read(_SLOW_PIECE_BYTES if manner.reads_slowly else _PIECE_BYTES)
    try:
        left_s = max(0.0, leaves_at_s - time.monotonic())
        return await asyncio.wait_for(reader.read(_PIECE_BYTES), left_s)
    except asyncio.TimeoutError:
        raise _Left from None
