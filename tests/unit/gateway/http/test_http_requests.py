"""Which headers a request may have: those that the real connections of the tests do not try."""

import pytest

from gateway.errors import ApiError
from gateway.http.requests import check_headers, path_of

HOST = (b"host", b"localhost:8000")
CHUNKED = (b"transfer-encoding", b"Chunked")


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", [HOST]), ("1.0", [HOST]), ("1.0", []), ("1.1", [HOST, CHUNKED]),
        *(("1.1", [(b"host", value)]) for value in (
            b"", b"a", b"a.b:1", b"[::1]", b"[fe80::1]:80", b"127.0.0.1:", b"x_y-z.example",
            b"a%20b",
        )),
    ],
)  # fmt: skip
def test_headers_that_are_taken(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    check_headers(version, headers)


@pytest.mark.parametrize(
    "headers",
    [
        *([(b"host", value)] for value in (
            b"a b", b"a/b", b"a@b", b"a:b", b"a:1:2", b"[::1", b"::1", b"a\xe9", b"a, b", b"<a>",
            b"a?b",
        )),
        [HOST, CHUNKED, CHUNKED],
        *([HOST, (b"transfer-encoding", value)] for value in (
            b"chunked, gzip", b"identity", b"xchunked", b"", b"chunked, chunked",
        )),
    ],
)  # fmt: skip
def test_headers_that_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ApiError) as caught:
        check_headers("1.1", headers)
    assert caught.value.status == 400


def test_the_path_of_a_url_with_a_host() -> None:
    assert path_of(b"http://example.org/a/b?c=d") == b"/a/b?c=d"
    assert path_of(b"http://example.org:80") == b"/"
