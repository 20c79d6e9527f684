"""TLS whose handshakes are bounded, as `Connection` bounds what follows them.

A protocol hears of a TLS connection only when the handshake has ended, so that a client which never
begins one would hold its file for as long as it likes.
"""

import ssl
import weakref
from collections.abc import Callable
from typing import Any

HANDSHAKE_TIMEOUT_S = 10.0
"""Seconds that a handshake may take; it is a few round trips."""


class _Session(ssl.SSLObject):
    """One connection's TLS, which is expected until its handshake has ended."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except BaseException:
            self._ended()
            raise
        self._ended()

    def _ended(self) -> None:
        context = self.context
        assert isinstance(context, TlsContext), "whose sessions these are"
        context.expected.discard(self)


class TlsContext(ssl.SSLContext):
    """Makes no more sessions than there is room for.

    The event loops have no hook at which a connection that was accepted could be refused before its
    handshake. But they all ask the context for a session first, and close the connection if they
    get none.

    Attributes:
        expected: sessions whose handshake has not ended; one that is given up goes by itself.
        has_room: is asked before each session.
    """

    sslobject_class = _Session
    expected: "weakref.WeakSet[ssl.SSLObject]"
    has_room: Callable[[], bool]

    def __init__(self, protocol: int) -> None:
        """Make it for ``ssl.PROTOCOL_TLS_SERVER``, with room for all."""
        super().__init__()
        self.expected = weakref.WeakSet()
        self.has_room = lambda: True

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a session.

        Raises:
            ssl.SSLError: there is no room for it.
        """
        if not self.has_room():
            raise ssl.SSLError("too many connections")
        session = super().wrap_bio(*arguments, **options)
        self.expected.add(session)
        return session


def handshake_timeout_s(receive_timeout_s: float) -> float:
    """Seconds for a handshake, where a request has ``receive_timeout_s``; 0 is for ever."""
    return min(HANDSHAKE_TIMEOUT_S, receive_timeout_s or HANDSHAKE_TIMEOUT_S)
