"""Tells Linux which process to end first when memory runs out."""

from contextlib import suppress

WORKER = 500
"""Of a worker: it is replaced, and what it ran is run again."""
ZYGOTE = 200
"""Of a zygote: a worker may be taken before it, the gateway only after it."""


def adjust(adjustment: int) -> None:
    """Adjust this process's score, from -1000 (never) to 1000 (first), where that is allowed."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(adjustment))
