"""Which headers a request may have, and the bytes that a connection ends with."""

import pytest

from gateway.errors import ApiError
from gateway.http.requests import check_headers, last_response, path_of, too_large

HOST = (b"host", b"localhost:8000")
CHUNKED = (b"transfer-encoding", b"Chunked")


def host(value: bytes) -> tuple[bytes, bytes]:
    return b"host", value


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", [HOST]), ("1.0", [HOST]), ("1.0", []), ("1.1", [HOST, CHUNKED]),
        *(("1.1", [host(value)]) for value in (
            b"", b"a", b"a.b:1", b"[::1]", b"[fe80::1]:80", b"127.0.0.1:", b"x_y-z.example",
            b"a%20b",
        )),
    ],
)  # fmt: skip
def test_headers_that_are_taken(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    check_headers(version, headers)


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", []), ("1.1", [HOST, HOST]), ("1.0", [HOST, HOST]), ("2.0", [HOST]), ("0.9", []),
        *(("1.1", [host(value)]) for value in (
            b"a b", b"a/b", b"a@b", b"a:b", b"a:1:2", b"[::1", b"::1", b"a\xe9", b"a, b", b"<a>",
            b"a?b",
        )),
        ("1.0", [HOST, CHUNKED]), ("1.1", [HOST, CHUNKED, CHUNKED]),
        *(("1.1", [HOST, (b"transfer-encoding", value)]) for value in (
            b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked", b"", b"chunked, chunked",
        )),
    ],
)  # fmt: skip
def test_headers_that_are_refused(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ApiError) as caught:
        check_headers(version, headers)
    assert caught.value.status == 400


def test_the_path_of_a_url_with_a_host() -> None:
    assert path_of(b"http://example.org/a/b?c=d") == b"/a/b?c=d"
    assert path_of(b"http://example.org:80") == b"/"


def test_a_server_that_drains_says_once_that_the_connection_ends() -> None:
    defaults = [(b"date", b"today"), (b"connection", b"close")]
    request_id, response = last_response(too_large(5), defaults)
    lines = response.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert lines.count(b"connection: close") == 1
    assert b"date: today" in lines
    assert f"x-request-id: {request_id}".encode() in lines
