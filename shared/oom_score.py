"""Tells Linux which process to end first when memory runs out."""

from contextlib import suppress

WORKER = 500
"""Of a worker: it is replaced, and what it ran is run again."""
ZYGOTE = 200
"""Of a zygote: a worker may be taken before it, the gateway only after it."""


def adjust(adjustment: int) -> None:
    """Adjust this process's score, where there is such a thing and it is allowed.

    Args:
        adjustment: from -1000 for never to 1000 for first; the gateway's is 0.
    """
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(adjustment))
