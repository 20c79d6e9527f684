"""The bytes that a client is told its connection ends with."""

from gateway.http.refusals import last_words, too_many_connections


def test_a_server_that_drains_says_once_that_the_connection_ends() -> None:
    defaults = [(b"date", b"today"), (b"connection", b"close")]
    request_id, response = last_words(too_many_connections(), defaults)
    lines = response.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert lines.count(b"connection: close") == 1
    assert b"date: today" in lines
    assert f"x-request-id: {request_id}".encode() in lines
