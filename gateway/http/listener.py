"""Options of the listening socket, which every connection inherits."""

import socket

_IDLE_S = 30
_PROBE_S = 10
_PROBES = 3


def notice_silence(listener: socket.socket, send_timeout_s: float) -> None:
    """Have the kernel end connections whose clients are gone without a word, or do not read.

    It does so at no cost per request: a client that is idle is asked whether it is still there, and
    one that does not acknowledge what it is sent, or makes no room for a segment of it (at most 64
    KiB, and half of what it has room for), is given up.

    Args:
        listener: what connections are accepted from.
        send_timeout_s: seconds that a client may take nothing; 0 for no bound.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": _IDLE_S,
        "TCP_KEEPINTVL": _PROBE_S,
        "TCP_KEEPCNT": _PROBES,
    }
    if send_timeout_s:
        options["TCP_USER_TIMEOUT"] = max(1, round(send_timeout_s * 1000))
    for name, value in options.items():
        if hasattr(socket, name):  # some systems lack some
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
