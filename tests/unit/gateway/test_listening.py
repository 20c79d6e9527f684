"""Where the server listens, and how many files may be open, in processes of their own."""

import socket
import subprocess
import sys
from contextlib import closing

import pytest

from gateway.listening import listen, needed_files, url_of
from shared.errors import UsageError

RAISE = """
import logging, resource
from gateway.listening import raise_file_limit
logging.basicConfig(format="%(levelname)s %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, {hard}), {hard}))
connections = raise_file_limit(2, {max_queue}, {max_connections})
print(*resource.getrlimit(resource.RLIMIT_NOFILE), connections)
"""
HAS_IPV6 = socket.has_dualstack_ipv6()


def raised(hard: int, max_queue: int, max_connections: int | None = None) -> tuple[str, str]:
    """The limits that a process then has with the most connections, and what it says."""
    code = RAISE.format(hard=hard, max_queue=max_queue, max_connections=max_connections)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    ("hard", "max_queue", "max_connections", "limits", "says"),
    [
        (1000, 64, None, f"1000 1000 {1000 - needed_files(2, 0)}", ""),
        (1000, 64, 500, "1000 1000 500", ""),
        (
            1000,
            64,
            5000,
            "1000 1000 5000",
            f"NS=5000 may need {needed_files(2, 5000)}",
        ),
        (1000, 2000, None, "1000 1000 ", f"MAX_QUEUE=2000 may need {needed_files(2, 2000)}"),
        # However few files there are, somebody can connect.
        (150, 64, None, "150 150 16", "MAX_QUEUE=64"),
    ],
)
def test_the_soft_limit_becomes_the_hard_one_and_one_that_is_too_low_is_said(
    hard: int, max_queue: int, max_connections: int | None, limits: str, says: str
) -> None:
    found, warning = raised(hard, max_queue, max_connections)
    assert found.startswith(limits)
    assert warning.startswith("WARNING" if says else "") and says in warning


def test_each_request_and_each_worker_needs_files() -> None:
    assert needed_files(2, 65) == needed_files(2, 64) + 1
    # A reload has each worker twice.
    assert needed_files(3, 64) - needed_files(2, 64) >= 2 * 8


@pytest.mark.parametrize(
    ("host", "url", "reached"),
    [
        ("127.0.0.1", "http://localhost:", ["127.0.0.1"]),
        ("127.0.0.2", "http://127.0.0.2:", ["127.0.0.2"]),
        ("0.0.0.0", "http://localhost:", ["127.0.0.1"]),
        pytest.param("::", "http://localhost:", ["127.0.0.1", "::1"],
                     marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
        pytest.param("::1", "http://[::1]:", ["::1"],
                     marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
    ],
)  # fmt: skip
def test_the_url_is_one_that_works(host: str, url: str, reached: list[str]) -> None:
    with closing(listen(host, 0, 5)) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener, "http") == f"{url}{port}"
        for address in reached:
            socket.create_connection((address, port), 5).close()
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000


def test_an_address_that_is_not_ours() -> None:
    with closing(listen("127.0.0.1", 0, 0)) as listener:
        port = listener.getsockname()[1]
        for host, reason in (
            ("127.0.0.1", "in use"),
            ("no.such.name.invalid", ""),
            ("a" * 300, ""),
        ):
            with pytest.raises(UsageError, match=f"cannot listen on HOST={host}.*{reason}"):
                listen(host, port, 0)
