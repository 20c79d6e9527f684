"""A load client that costs little: raw sockets, one epoll, counting the ends of events.

Run with a plan, as JSON on standard input, it plays it and prints what it saw as JSON: so the load
comes from a process of its own, and what it costs can be told from what the server costs.
"""

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

_READ_BYTES = 1 << 18
_CONNECTING_AT_ONCE = 128
_DONE = b"data: [DONE]\n\n"
_HEAD = (
    "{} {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{}content-length: {}"
)


def http_request(method: str, path: str, body: bytes = b"", close: bool = False) -> bytes:
    """The bytes of a request; ``close`` makes the server end the connection after the answer."""
    head = _HEAD.format(method, path, "connection: close\r\n" if close else "", len(body))
    return head.encode() + b"\r\n\r\n" + body


@dataclass
class Seen:
    """What came of a load.

    Attributes:
        streams: how many were asked for.
        errors: how many did not end with ``[DONE]`` after a status of 200.
        error: the beginning of the first answer that was wrong.
        events: events in all streams.
        seconds: from the first request to the last end.
        first_s: when the first event of each stream came, in seconds after its request.
        cpu_seconds: CPU time of this client.
        n_bytes: what was received.
    """

    streams: int
    errors: int = 0
    error: str = ""
    events: int = 0
    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    n_bytes: int = 0


class _Stream:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.began = 0.0
        self.head = b""
        self.tail = b""
        self.events = 0

    def take(self, received: bytes) -> None:
        if len(self.head) < 200:
            self.head += received[:200]
        joined = self.tail + received
        # Two line ends in a row, none of them counted before.
        self.events += joined.count(b"\n\n") - self.tail.count(b"\n\n")
        self.tail = joined[-64:]

    @property
    def well(self) -> bool:
        return self.head.startswith(b"HTTP/1.1 200") and _DONE in self.tail


def play(port: int, bodies: list[bytes], path: str, deadline_s: float) -> Seen:
    """Ask for all streams at once and read them to their ends.

    Args:
        port: of the server, on this machine.
        bodies: one for each stream.
        path: where they go.
        deadline_s: streams that have not ended by then are errors.
    """
    seen = Seen(len(bodies))
    poll = select.epoll()
    open_streams: dict[int, _Stream] = {}
    cpu = time.process_time()
    for _ in bodies:
        stream = _Stream(port)
        open_streams[stream.socket.fileno()] = stream
        poll.register(stream.socket.fileno(), select.EPOLLIN)
    began = time.monotonic()
    for stream, body in zip(open_streams.values(), bodies, strict=True):
        stream.began = time.monotonic()
        stream.socket.sendall(http_request("POST", path, body, close=True))
    while open_streams and (left := began + deadline_s - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left):
            stream = open_streams[descriptor]
            try:
                received = stream.socket.recv(_READ_BYTES)
            except ConnectionError:
                received = b""
            if not stream.head and received:
                seen.first_s.append(time.monotonic() - stream.began)
            if received:
                seen.n_bytes += len(received)
                stream.take(received)
                continue
            poll.unregister(descriptor)
            stream.socket.close()
            del open_streams[descriptor]
            _count(seen, stream)
    for stream in open_streams.values():
        _count(seen, stream)
        stream.socket.close()
    poll.close()
    seen.seconds = time.monotonic() - began
    seen.cpu_seconds = time.process_time() - cpu
    return seen


def _count(seen: Seen, stream: _Stream) -> None:
    seen.events += stream.events
    if not stream.well:
        seen.errors += 1
        seen.error = seen.error or (stream.head + b" ... " + stream.tail).decode("utf-8", "replace")


def probe(port: int, pause_s: float = 0.001) -> list[float]:
    """How long ``GET /health`` takes, over and over until standard input ends, in milliseconds."""
    times = []
    ended = select.poll()
    ended.register(sys.stdin, select.POLLIN | select.POLLHUP)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not ended.poll(0):
            began = time.perf_counter()
            connection.sendall(http_request("GET", "/health"))
            answer = b""
            while not answer.endswith(b"}"):
                if not (received := connection.recv(4096)):
                    raise SystemExit(f"/health answered with {answer!r}")
                answer += received
            times.append((time.perf_counter() - began) * 1e3)
            if len(times) == 1:
                print(flush=True)  # says that it has begun
            time.sleep(pause_s)
    return times


if __name__ == "__main__":
    plan = json.loads(sys.stdin.readline())
    if plan.get("probe"):
        json.dump(probe(plan["port"]), sys.stdout)
    else:
        bodies = [body.encode() for body in plan["bodies"]]
        json.dump(asdict(play(plan["port"], bodies, plan["path"], plan["deadline_s"])), sys.stdout)
