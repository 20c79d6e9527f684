"""What no client should send, byte by byte: the right answer, then an orderly end, and no harm."""

import json
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import pytest

from gateway.http.protocol import LINGER_S
from tests.integration.raw_http import GET, HOST, Connection, connected, head, post
from tests.serving import DEADLINE_S, Server, served_echo

RECEIVE_S = 0.5
HEADER_BYTES = 8192
LIMIT = 2 << 20
JSON = b'{"prompt": "Hi"}'
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def edge_server() -> Iterator[Server]:
    """Short limits, so that they can be waited for."""
    limits = (
        "--receive-timeout", str(RECEIVE_S), "--keep-alive-timeout", "0.5",
        "--max-header-bytes", str(HEADER_BYTES), "--max-connections", "20",
    )  # fmt: skip
    with served_echo(*limits, "--drain-timeout", "2") as server:
        # The client's connection may be at its end just when it is used again.
        server.http.headers["Connection"] = "close"
        yield server
        assert "Traceback" not in server.stderr
        server.stop()


@pytest.fixture
def connection(edge_server: Server) -> Iterator[Connection]:
    with connected(edge_server) as connection:
        yield connection


REFUSED = {
    "no HTTP": (b"Hello?\r\n\r\n", 400, "invalid_http"),
    "NUL in the URL": (b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_http"),
    "NUL in a header": (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400, "invalid_http"),
    "NULs": (b"\0" * 1000, 400, "invalid_http"),
    "a URL that is not ASCII": (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_http"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_http"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_http"),
    "a proxy request": (head(path="example.org:443", method="CONNECT"), 400, "invalid_http"),
    "WebSocket": (
        head(b"Upgrade: websocket", b"Connection: Upgrade", path="/", method="GET"),
        400, "invalid_http",
    ),
    "two lengths": (
        head(b"Content-Length: 16", b"Content-Length: 17") + JSON, 400, "invalid_http",
    ),
    "a length and chunks": (
        head(b"Content-Length: 16", CHUNKED) + b"0\r\n\r\n", 400, "invalid_http",
    ),
    "no Host": (b"GET /health HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    "two Hosts": (head(HOST.rstrip()), 400, "invalid_http"),
    "another coding": (
        head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 400, "invalid_http",
    ),
    "chunks in HTTP/1.0": (head(CHUNKED, version="1.0") + b"0\r\n\r\n", 400, "invalid_http"),
    "HTTP/2.0 all the same": (head(path="/health", version="2.0"), 400, "invalid_http"),
    "a length that is no number": (head(b"Content-Length: many"), 400, "invalid_http"),
    "a negative length": (head(b"Content-Length: -1"), 400, "invalid_http"),
    "a chunk of no length": (head(CHUNKED) + b"zz\r\n", 400, "invalid_http"),
    "a longer chunk than it says": (head(CHUNKED) + b"1\r\n" + JSON, 400, "invalid_http"),
    "a long header": (b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000, 431, "headers_too_large"),
    "a long header that ends": (
        b"GET / HTTP/1.1\r\nA: " + b"a" * HEADER_BYTES + b"\r\n\r\n", 431, "headers_too_large",
    ),
    "100,000 headers": (
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000, 431, "headers_too_large",
    ),
    "a long URL": (b"GET /" + b"a" * 100_000, 431, "headers_too_large"),
    "trailers without end": (
        head(CHUNKED) + b"0\r\nA: " + b"a" * 1_000_000, 431, "headers_too_large",
    ),
    "a chunk extension without end": (
        head(CHUNKED) + b"1;" + b"a" * 1_000_000, 431, "headers_too_large",
    ),
    "too long, and waits for leave": (
        head(b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue"),
        413, "request_too_large",
    ),
    "too long by far": (head(b"Content-Length: " + b"9" * 18), 413, "request_too_large"),
    "half a request line": (b"POST /v1/comp", 408, "receive_timeout"),
    "half the headers": (b"POST / HTTP/1.1\r\nHost: loc", 408, "receive_timeout"),
    "half a body": (head(b"Content-Length: 17") + JSON, 408, "receive_timeout"),
    "half a body in chunks": (head(CHUNKED) + b"10\r\n" + JSON, 408, "receive_timeout"),
    "waits for leave and never sends": (
        head(b"Content-Length: 16", b"Expect: 100-continue"), 408, "receive_timeout",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_request_is_refused_and_counted_and_the_connection_ends(
    edge_server: Server, connection: Connection, name: str
) -> None:
    sent, status, code = REFUSED[name]
    n_before = n_rejected(edge_server, code)
    connection.send(sent)
    answer = connection.answer()  # after "100 Continue", if that comes
    assert answer.error == (status, code)
    assert answer.closes
    assert connection.is_ended()
    assert n_rejected(edge_server, code) == n_before + 1


def n_rejected(server: Server, code: str) -> float:
    return server.counters()[f'ggml_requests_rejected_total{{reason="{code}"}}']


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\nA: ", head(b"Content-Length: 1000")], ids=["headers", "body"]
)
def test_a_request_byte_by_byte_has_to_arrive_in_time(connection: Connection, begin: bytes) -> None:
    connection.send(begin)
    deadline = time.monotonic() + DEADLINE_S
    while not select.select([connection.socket], [], [], 0.02)[0]:
        connection.send(b"a")
        assert time.monotonic() < deadline
    assert connection.answer().error == (408, "receive_timeout")
    assert connection.is_ended()


@pytest.mark.parametrize("is_used", [False, True], ids=["silent", "idle"])
def test_a_connection_without_a_request_is_closed_without_a_word(
    connection: Connection, is_used: bool
) -> None:
    if is_used:
        connection.send(GET)
        assert connection.answer("GET").status == 200
        connection.send(b"\r\n")  # is no request yet
    assert connection.is_ended()


def test_a_body_is_read_when_leave_was_given(connection: Connection) -> None:
    connection.send(head(b"Content-Length: 16", b"Expect: 100-continue"))
    assert connection.answer_begins() == 100
    connection.send(JSON)
    assert connection.answer().body == b'"Hi"'


def test_a_body_in_chunks(connection: Connection) -> None:
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in JSON)
    connection.send(head(CHUNKED), chunks, b"0\r\nTrailer: x\r\n\r\n", GET)
    assert connection.answer().body == b'"Hi"'
    assert connection.answer("GET").status == 200


def test_another_protocol_is_not_taken_up(connection: Connection) -> None:
    # As Java's client asks by default, with every body.
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEA")
    for _ in range(2):
        connection.send(post(JSON, *upgrade))
        answer = connection.answer()
        assert (answer.status, answer.body, answer.closes) == (200, b'"Hi"', False)
    chunked = head(CHUNKED, *upgrade) + b"10\r\n" + JSON + b"\r\n0\r\n\r\n"
    connection.send(chunked * 2, GET)
    assert [connection.answer().body for _ in range(2)] == [b'"Hi"'] * 2
    assert connection.answer("GET").status == 200


@pytest.mark.parametrize(
    ("version", "wish"),
    [
        ("1.0", b"Connection: Upgrade"),
        ("1.1", b"Connection: close, Upgrade"),
        ("1.1", b"Connection: Upgrade, Close"),
    ],
)
def test_a_connection_that_is_not_upgraded_ends_as_asked(
    connection: Connection, version: str, wish: bytes
) -> None:
    connection.send(post(JSON, wish, b"Upgrade: h2c", version=version))
    answer = connection.answer()
    assert (answer.status, answer.body, answer.closes) == (200, b'"Hi"', True)
    assert connection.is_ended()


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_knows_no_chunks(connection: Connection, stream: bool) -> None:
    body = {"prompt": "Hello", "stream": stream, "model": "echo"}
    connection.send(post(json.dumps(body).encode(), version="1.0"))
    answer = connection.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert answer.headers["transfer-encoding"] is None
    assert answer.body.endswith(b"data: [DONE]\n\n") == stream
    assert stream or b'"text":"Hello"' in answer.body
    assert connection.is_ended()


def test_a_connection_goes_on_after_errors(connection: Connection) -> None:
    for body, path, status in (
        (b"{", "/v1/completions", 400),
        (JSON, "/v1/completions", 200),
        (b'{"prompt": 5}', "/v1/completions", 400),
        (b"{}", "/nowhere", 404),
        (JSON, "/v1/completions", 200),
    ):
        connection.send(post(body, path=path))
        answer = connection.answer()
        assert (answer.status, answer.closes) == (status, False)


def test_a_body_longer_than_it_says_is_the_next_request(connection: Connection) -> None:
    connection.send(head(b"Content-Length: 16"), JSON + b" and more")
    assert connection.answer().body == b'"Hi"'
    assert connection.answer().error == (400, "invalid_http")
    assert connection.is_ended()


def test_an_answer_before_the_end_of_the_body_ends_the_connection(connection: Connection) -> None:
    connection.send(head(b"Content-Length: 1000", path="/nowhere"), b"x")
    answer = connection.answer()
    assert answer.error == (404, "unknown_url")
    assert answer.closes
    connection.send(b"x" * 500)  # is taken, so that nothing is reset
    assert connection.is_ended()


def test_an_upload_without_end_sees_its_answer_and_is_not_read(edge_server: Server) -> None:
    with connected(edge_server) as connection:
        connection.send(head(b"Content-Length: %d" % (1 << 30)))
        answer = connection.answer()
        connection.socket.settimeout(0.2)
        sent = 0
        with pytest.raises(OSError):  # it does not take more, or the connection has ended
            while sent < 1 << 30:
                sent += connection.socket.send(bytes(1 << 20))
        assert sent < 100 << 20
        connection.socket.settimeout(DEADLINE_S)
        assert answer.error == (413, "request_too_large")
        assert answer.closes
        assert connection.is_ended()


def test_who_sends_all_before_it_reads_does_not_wait_for_its_answer(edge_server: Server) -> None:
    began_s = time.monotonic()
    answer = edge_server.http.post("/v1/completions", content=bytes(20 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert time.monotonic() - began_s < LINGER_S


def test_large_bodies_that_arrive_have_a_bound(echo_server: Server) -> None:
    large = head(b"Content-Length: 1000000", b"X-Request-Id: large") + b" " * 200_000
    echo_server.wait_until_idle()
    with ExitStack() as stack:
        # As many as there are workers and places in the queue, and one more.
        many = [stack.enter_context(connected(echo_server)) for _ in range(2 + 8 + 1)]
        for connection in many:
            connection.send(large)
        (refused,) = select.select([each.socket for each in many], [], [], DEADLINE_S)[0]
        (last,) = [each for each in many if each.socket is refused]
        answer = last.answer()
        assert answer.error == (429, "queue_full") and answer.closes
        assert answer.headers["retry-after"] == "1"
        # What is little is not held up by it.
        assert echo_server.http.post("/v1/completions", json={"prompt": "Hi"}).json() == "Hi"
        many.remove(last)
        many.pop().leave()
        echo_server.wait_for_output(r" 499 .* ms large\n", "stderr")
        with connected(echo_server) as follower:
            follower.send(large, JSON.rjust(800_000))
            assert follower.answer().body == b'"Hi"'
        many[0].send(JSON.rjust(800_000))
        assert many[0].answer().body == b'"Hi"'
    echo_server.wait_until_idle()


def test_too_many_connections_are_told_so(edge_server: Server) -> None:
    n_before = n_rejected(edge_server, "too_many_connections")
    with ExitStack() as stack:
        many = [stack.enter_context(connected(edge_server)) for _ in range(21)]
        answer = many[-1].answer()
        assert answer.error == (503, "too_many_connections")
        assert int(answer.headers["retry-after"]) >= 1 and answer.closes
        assert many[-1].is_ended()
        many[0].send(GET)
        assert many[0].answer("GET").status == 200
    edge_server.wait_until_idle()  # there is room again
    assert n_rejected(edge_server, "too_many_connections") > n_before


def test_every_answer_has_the_time_of_day(edge_server: Server) -> None:
    first = edge_server.http.get("/health").headers["date"]
    deadline = time.monotonic() + DEADLINE_S
    while (now := edge_server.http.get("/health").headers["date"]) == first:
        assert time.monotonic() < deadline, "the date header stands still"
    assert abs((datetime.now(timezone.utc) - parsedate_to_datetime(now)).total_seconds()) < 5
