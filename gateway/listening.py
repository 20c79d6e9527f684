"""Where the server listens: socket, certificate, URL, and the files that connections take."""

import logging
import resource
import socket
import ssl
import sys
from pathlib import Path

from gateway.http.protocol import MOST_REFUSED
from gateway.settings import Settings
from shared.errors import UsageError, reason_of

logger = logging.getLogger(__name__)

# Connections that the kernel holds until they are accepted, so that a burst gets 429, not a reset.
_BACKLOG = 2048
# Seconds of silence until a client is asked whether it is there, between that, and how often.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_FILES_PER_WORKER = 8  # pipes of a worker process, with some to spare
_FILES_OF_OURS = 64  # the zygote, the event loop, log files, a start in progress
_POOLS = 2  # while the model is loaded again, its workers stand beside those of the one before
_MOST_CONNECTIONS = 10_000  # however many files there may be: each takes memory, too
_FEWEST_CONNECTIONS = 16  # however few: without any, nobody could be told anything


def listen(host: str, port: int, send_timeout_s: float) -> socket.socket:
    """The socket that connections are accepted from, and inherit their options from.

    The kernel ends connections whose clients are gone without a word; and those that for
    ``send_timeout_s`` do not acknowledge what they are sent, or make no room for a segment of it
    (at most 64 KiB, and half of what there is room for); 0 for no bound. That costs nothing per
    request.

    Raises:
        UsageError: it is not ours to listen on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        is_dual = address[0] == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual
        )
    except (OSError, UnicodeError) as error:
        where = f"HOST={host} PORT={port}"
        raise UsageError(f"cannot listen on {where}: {reason_of(error)}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    if send_timeout_s:
        milliseconds = max(1, round(send_timeout_s * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def url_of(listener: socket.socket, scheme: str) -> str:
    """The URL of the server, as somebody on this machine would type it."""
    host, port = listener.getsockname()[:2]
    if host == "::" and listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        host = "::1"
    elif host in ("127.0.0.1", "0.0.0.0", "::"):  # nosec B104  # only compared
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are encrypted with; None for no TLS.

    Raises:
        UsageError: the certificate or its key cannot be used.
    """
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile is not None:
            raise UsageError("SSL_KEYFILE needs SSL_CERTFILE, the certificate that it belongs to")
        return None
    certfile = _readable("SSL_CERTFILE", settings.ssl_certfile)
    keyfile = settings.ssl_keyfile and _readable("SSL_KEYFILE", settings.ssl_keyfile)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
        raise UsageError(f"{name}={setting}: {reason_of(error)}") from error


def needed_files(processes: int, connections: int) -> int:
    """How many files may be open at once: those of the workers, and one for each connection."""
    of_workers = _POOLS * processes * (_FILES_PER_WORKER + 1)
    return of_workers + connections + MOST_REFUSED + _FILES_OF_OURS


def raise_file_limit(processes: int, max_queue: int, max_connections: int | None = None) -> int:
    """Raise the process' soft limit on open files to the hard one; warn if that is not enough.

    Returns:
        How many connections there may be: ``max_connections``, or what the limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    name, wanted = "MAX_QUEUE", max_queue  # each request that waits has its connection
    if max_connections:
        name, wanted = "MAX_CONNECTIONS", max_connections
    if most < (needed := needed_files(processes, wanted)):
        logger.warning(
            "%d workers and %s=%d may need %d open files, and the limit (ulimit -Hn) is %d:"
            " beyond it connections are not accepted; raise the limit or lower %s",
            processes, name, wanted, needed, most, name,
        )  # fmt: skip
    room = min(_MOST_CONNECTIONS, most - needed_files(processes, 0))
    return max_connections or max(_FEWEST_CONNECTIONS, room)
