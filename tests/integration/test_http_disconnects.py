"""Clients that leave, at any moment and in any way: nothing of them stays."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.raw_http import GET, Connection, connected, head, post
from tests.serving import Server, chat, served_echo

CHATS = "/v2/chat/completions"
ROUNDS = 60
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def body(stream: bool, n: int = 1, length: int = 2000) -> bytes:
    return json.dumps(chat("x" * length, stream=stream, n=n, max_tokens=2000)).encode()


def whole(stream: bool, n: int = 1, length: int = 2000) -> Callable[[Connection], None]:
    request = post(body(stream, n, length), path=CHATS)
    return lambda connection: connection.send(request)


def begun(n: int) -> Callable[[Connection], None]:
    request = post(body(True, n), path=CHATS)

    def leave_in_mid_stream(connection: Connection) -> None:
        connection.send(request)
        assert connection.answer_begins() in (200, 429)

    return leave_in_mid_stream


def half_closed(connection: Connection) -> None:
    connection.send(post(body(True), path=CHATS))
    connection.socket.shutdown(socket.SHUT_WR)


def half_closed_in_mid_stream(connection: Connection) -> None:
    # It might still read; most that end theirs do not, and to find out takes something to send.
    begun(1)(connection)
    connection.socket.shutdown(socket.SHUT_WR)
    assert b"[DONE]" not in connection.rest()


MOMENTS: dict[str, Callable[[Connection], None]] = {
    "before the request": lambda connection: None,
    "within the headers": lambda connection: connection.send(GET[:-3]),
    "within the body": lambda connection: connection.send(
        head(b"Content-Length: 100", path=CHATS) + b"{"
    ),
    "within a large body": lambda connection: connection.send(
        head(b"Content-Length: 1000000", path=CHATS) + bytes(200_000)
    ),
    "before the work on a large body": whole(False, length=100_000),
    "before the answer": whole(False),
    "before the answers": whole(False, n=3),
    "before the stream": whole(True),
    "in mid-stream": begun(1),
    "in mid-stream of several": begun(3),
    "with a second request sent": lambda connection: connection.send(
        post(body(False), path=CHATS) * 2
    ),
    "after its half of the connection": half_closed,
    "after its half in mid-stream": half_closed_in_mid_stream,
}


RUNNING = (
    "before the answer", "before the answers", "before the stream", "in mid-stream",
    "in mid-stream of several", "with a second request sent",
)  # fmt: skip
"""Those in which a worker is at work, for longer than a test waits."""


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident_bytes(server: Server) -> int:
    statm = Path(f"/proc/{server.process.pid}/statm").read_text()
    return int(statm.split()[1]) * PAGE_BYTES


def test_hundreds_of_clients_that_leave_leave_nothing_behind() -> None:
    with served_echo("--max-queue", "16", "--drain-timeout", "2", delay_ms=1) as server:

        def leave(times: int) -> None:
            for turn in range(times):
                for act in MOMENTS.values():
                    connection = Connection(server)
                    act(connection)
                    connection.leave(by_reset=turn % 2 == 0)
            server.wait_until_idle()

        pids = server.worker_pids()
        leave(15)  # whatever is made on first use is made now
        files, held = open_files(server), resident_bytes(server)
        leave(ROUNDS - 15)
        # The last connections may still be on their way out.
        server.wait_until(lambda _: open_files(server) <= files)
        # A task, a connection or a generation that stays takes some KiB each.
        assert resident_bytes(server) - held < 4 << 20
        assert server.worker_pids() == pids
        assert "Traceback" not in server.stderr
        server.stop()


@pytest.mark.parametrize("by_reset", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_client_that_leaves_is_missed(slow_server: Server, moment: str, by_reset: bool) -> None:
    pids = slow_server.worker_pids()
    with connected(slow_server) as connection:
        MOMENTS[moment](connection)
        if moment in RUNNING:
            slow_server.wait_until(lambda status: status["running"] > 0)
        connection.leave(by_reset)
    slow_server.wait_until_idle()
    assert slow_server.worker_pids() == pids
