"""Where the server listens: its socket, its certificate, and the URL that comes of them."""

import socket
import ssl
from pathlib import Path

from gateway.http.tls import TlsContext
from gateway.settings import Settings
from shared.errors import UsageError

# Connections that the kernel holds until they are accepted, so that a burst gets 429, not a reset.
_BACKLOG = 2048
_EVERY_V4_ADDRESS = "0.0.0.0"  # nosec B104  # only compared
_OF_THIS_MACHINE = ("127.0.0.1", _EVERY_V4_ADDRESS, "::1", "::")


def listen(host: str, port: int) -> socket.socket:
    """The socket that connections are accepted from.

    Raises:
        UsageError: it is not ours to listen on.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on HOST={host} PORT={port}: {reason}") from error


def url_of(listener: socket.socket, settings: Settings) -> str:
    """The URL of the server, as somebody on this machine would type it."""
    host, port = listener.getsockname()[:2]
    if host in _OF_THIS_MACHINE:
        host = "localhost"
    scheme = "http" if settings.ssl_certfile is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def tls_context(settings: Settings) -> TlsContext | None:
    """What connections are encrypted with; None for no TLS.

    Raises:
        UsageError: the certificate or its key cannot be used.
    """
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile is not None:
            raise UsageError("SSL_KEYFILE needs SSL_CERTFILE, the certificate that it belongs to")
        return None
    certfile = _readable("SSL_CERTFILE", settings.ssl_certfile)
    keyfile = None
    if settings.ssl_keyfile is not None:
        keyfile = _readable("SSL_KEYFILE", settings.ssl_keyfile)
    context = TlsContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password that of an encrypted key would be asked for, on the terminal.
        context.load_cert_chain(certfile, keyfile, settings.ssl_keyfile_password or "")
    except (ssl.SSLError, ValueError) as error:
        name = "SSL_CERTFILE" if settings.ssl_keyfile is None else "SSL_CERTFILE and SSL_KEYFILE"
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{name} must be a certificate and its private key, in PEM format, with"
            f" SSL_KEYFILE_PASSWORD if the key is encrypted: {reason}"
        ) from error
    return context


def _readable(name: str, setting: str) -> str:
    path = Path(setting).expanduser()
    try:
        with path.open("rb"):
            return str(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{name}={setting}: {reason}") from error
