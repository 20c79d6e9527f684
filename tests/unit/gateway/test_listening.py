"""Where the server listens, with which certificate, and how many files may be open."""

import resource
import socket
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from gateway.listening import listen, needed_files, raise_file_limit, tls_context, url_of
from gateway.settings import Settings
from shared.errors import UsageError

HAS_IPV6 = socket.has_dualstack_ipv6()


@pytest.mark.parametrize(
    ("hard", "max_queue", "max_connections", "found", "says"),
    [
        (1000, 64, None, 1000 - needed_files(2, 0), ""),
        (1000, 64, 500, 500, ""),
        (1000, 64, 5000, 5000, f"NS=5000 may need {needed_files(2, 5000)}"),
        (1000, 2000, None, 1000 - needed_files(2, 0), f"may need {needed_files(2, 2000)}"),
        # However few files there are, somebody can connect.
        (150, 64, None, 16, "MAX_QUEUE=64"),
    ],
)
def test_the_soft_limit_becomes_the_hard_one_and_one_that_is_too_low_is_said(
    hard: int,
    max_queue: int,
    max_connections: int | None,
    found: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits: list[tuple[int, int]] = [(100, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.append(new))
    assert raise_file_limit(2, max_queue, max_connections) == found
    assert limits[-1] == (hard, hard)
    assert says in caplog.text and bool(says) == bool(caplog.records)


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


@pytest.mark.parametrize(
    ("host", "reason"), [("127.0.0.1", "in use"), ("no.such.name.invalid", ""), ("a" * 300, "")]
)
def test_an_address_that_is_not_ours(host: str, reason: str) -> None:
    with closing(listen("127.0.0.1", 0, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on HOST={host}.*{reason}"):
            listen(host, port, 0)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates and keys."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.cert_chain_pems[0].write_to_path(folder / "cert")
    made.private_key_pem.write_to_path(folder / "key")
    made.private_key_and_cert_chain_pem.write_to_path(folder / "both")
    authority.issue_cert("localhost").private_key_pem.write_to_path(folder / "other")
    key = serialization.load_pem_private_key((folder / "key").read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"correct horse")
    kind, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "encrypted").write_bytes(key.private_bytes(kind, form, secret))
    (folder / "nonsense").write_text("none")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "password", "says"),
    [
        (None, None, None, ""),
        ("both", None, None, ""),
        ("cert", "key", None, ""),
        ("cert", "encrypted", "correct horse", ""),
        ("cert", "encrypted", None, "with SSL_KEYFILE_PASSWORD if"),
        ("cert", "encrypted", "battery staple", "with SSL_KEYFILE_PASSWORD if"),
        ("cert", None, None, "SSL_CERTFILE must be a certificate and its private key"),
        ("cert", "other", None, "SSL_CERTFILE and SSL_KEYFILE must be"),
        ("nonsense", None, None, "SSL_CERTFILE must be .* in PEM format"),
        ("missing", None, None, "SSL_CERTFILE=.*missing: No such file"),
        (None, "key", None, "SSL_KEYFILE needs SSL_CERTFILE"),
    ],
)
def test_certificates(
    certificate: str | None, key: str | None, password: str | None, says: str, pem: Path
) -> None:
    paths = [str(pem / name) if name else None for name in (certificate, key)]
    settings = Settings(ssl_certfile=paths[0], ssl_keyfile=paths[1], ssl_keyfile_password=password)
    if says:
        with pytest.raises(UsageError, match=says):
            tls_context(settings)
    else:
        assert (tls_context(settings) is None) == (certificate is None)
