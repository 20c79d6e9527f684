"""The bounds of connections hold over TLS as well, and from the first byte of its handshake."""

import contextlib
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from gateway.http.protocol import LINGER_S
from tests.integration.raw_http import GET, Connection, connected, head
from tests.serving import START_S, Server, launched

MOST = 4


@dataclass(frozen=True)
class Authority:
    """A certificate for servers, and what their clients trust."""

    certificate: str
    trusted: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = trustme.CA()
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    made.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    trusted = ssl.create_default_context()
    made.configure_trust(trusted)
    return Authority(str(Path(file)), trusted)


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[Server]:
    """Few connections, and little time for what arrives."""
    with launched(
        "--workers", "1", "--drain-timeout", "2", "--max-connections", str(MOST),
        "--receive-timeout", "0.5", MODEL_TYPE="echo", SSL_CERTFILE=authority.certificate,
    ) as server:  # fmt: skip
        port = server.wait_for_output(r"is ready on https://localhost:(\d+)\n", timeout=START_S)[1]
        server.url = f"https://127.0.0.1:{port}"
        server.http.close()
        server.http = httpx.Client(
            verify=authority.trusted, base_url=server.url, timeout=START_S,
            headers={"connection": "close"},
        )  # fmt: skip
        yield server
        assert "Traceback" not in server.stderr
        server.stop()


def is_refused(connection: Connection) -> bool:
    """Whether the connection ends, in whatever way, without a byte."""
    try:
        return connection.is_ended()
    except ConnectionResetError:
        return True


def test_a_handshake_has_to_end_in_time(authority: Authority, tls_server: Server) -> None:
    with connected(tls_server) as silent, connected(tls_server) as begun:
        begun.send(b"\x16\x03\x01\x02\x00")
        assert is_refused(silent) and is_refused(begun)
    with connected(tls_server, tls=authority.trusted) as connection:
        connection.send(head(b"Content-Length: 100"))
        assert connection.answer().error == (408, "receive_timeout")


def test_handshakes_that_fail_leave_nothing_behind(tls_server: Server) -> None:
    for turn in range(2 * MOST):
        with connected(tls_server) as connection:
            if turn % 2:
                connection.send(GET)  # is no TLS
                with contextlib.suppress(ConnectionResetError):
                    connection.rest()
    assert tls_server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"


def test_too_many_connections_are_told_so_and_do_not_stay(
    authority: Authority, tls_server: Server
) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            kept = stack.enter_context(connected(tls_server, tls=authority.trusted))
            kept.send(GET)
            assert kept.answer("GET").status == 200
        with connected(tls_server, tls=authority.trusted) as last:
            assert last.answer().error == (503, "too_many_connections")
            began_s = time.monotonic()
            assert last.is_ended()
            assert time.monotonic() - began_s < LINGER_S
