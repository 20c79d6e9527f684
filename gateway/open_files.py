"""The limit on open files: raised as far as it goes, and checked against what may be open."""

import logging

logger = logging.getLogger(__name__)

_FILES_PER_WORKER = 8
"""Pipes and locks of a worker process, with some to spare."""
_FILES_OF_OURS = 64
"""The template, the event loop, log files, a start in progress."""


def needed_files(workers: int, max_queue: int) -> int:
    """How many files may be open at once: those of the workers, and a connection per request."""
    return workers * (_FILES_PER_WORKER + 1) + max_queue + _FILES_OF_OURS


def raise_limit(workers: int, max_queue: int) -> None:
    """Raise the process' soft limit on open files to the hard one; warn if that is not enough.

    Args:
        workers: how many worker processes there will be.
        max_queue: how many requests may wait, each with its connection.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = needed_files(workers, max_queue)
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "%d workers and MAX_QUEUE=%d may need %d open files, and the limit (ulimit -Hn) is %d:"
            " beyond it connections are not accepted; raise the limit or lower MAX_QUEUE",
            workers,
            max_queue,
            needed,
            hard,
        )
