"""How much time and memory a connection may take."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import ErrorCode

LINGER_S = 5.0
"""Seconds that a client gets to notice that its connection has ended."""
LINGER_TLS_S = 1.0
"""The same over TLS, where nothing but the headers of its answer tells it so."""
LINGER_BYTES = 4 << 20
"""Of what a client sends in spite of that, the most that is taken and dropped."""
LINGER_FULL_S = 0.25
"""Seconds after these; one that sends all before it reads would wait for nothing."""
MOST_REFUSED = 64
"""The most connections beyond `HttpLimits.max_connections` that are told why they are refused."""
MOST_PIPELINED = 8
"""The most requests that may wait for the answer to the one before them."""
MOST_PIPELINED_BYTES = 64 << 10
"""The most bytes of body that such a request may have sent."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of one server.

    Attributes:
        max_connections: the most connections that are served.
        max_header_bytes: the longest request line and headers together, and the most that may come
            between two pieces of a body.
        receive_timeout_s: seconds in which the whole of a request must have arrived, from its first
            byte; 0 for no bound.
        keep_alive_timeout_s: seconds that a connection may be idle between two requests; 0 ends
            each connection with its first answer.
        count_refused: is told of each connection that was refused or ended with an error without
            a request, and why.
    """

    max_connections: int
    max_header_bytes: int
    receive_timeout_s: float
    keep_alive_timeout_s: float
    count_refused: Callable[[ErrorCode], None] = lambda code: None
