"""The limit on open files: raised as far as it goes, and what it leaves for connections."""

import logging

from gateway.http.limits import MOST_REFUSED

logger = logging.getLogger(__name__)

_FILES_PER_WORKER = 8
"""Pipes of a worker process, with some to spare."""
_FILES_OF_OURS = 64
"""The zygote, the event loop, log files, a start in progress."""
_POOLS = 2
"""While the model is loaded again, its workers stand beside those of the one before."""
_MOST_CONNECTIONS = 10_000
"""However many files there may be: each connection takes memory, too."""
_FEWEST_CONNECTIONS = 16
"""However few: without any, nobody could be told anything."""


def needed_files(workers: int, connections: int) -> int:
    """How many files may be open at once: those of the workers, and one for each connection."""
    of_workers = _POOLS * workers * (_FILES_PER_WORKER + 1)
    return of_workers + connections + MOST_REFUSED + _FILES_OF_OURS


def raise_limit(workers: int, max_queue: int, max_connections: int | None = None) -> int:
    """Raise the process' soft limit on open files to the hard one; warn if that is not enough.

    Args:
        workers: how many worker processes there will be.
        max_queue: how many requests may wait, each with its connection.
        max_connections: how many connections are asked for; None takes what the limit allows.

    Returns:
        How many connections there may be.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return max_connections or _MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = max_connections or max_queue
    needed = needed_files(workers, wanted)
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "%d workers and %s=%d may need %d open files, and the limit (ulimit -Hn) is %d:"
            " beyond it connections are not accepted; raise the limit or lower %s",
            workers,
            "MAX_CONNECTIONS" if max_connections else "MAX_QUEUE",
            wanted,
            needed,
            hard,
            "MAX_CONNECTIONS" if max_connections else "MAX_QUEUE",
        )
    if max_connections:
        return max_connections
    if hard == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, hard - needed_files(workers, 0)))
