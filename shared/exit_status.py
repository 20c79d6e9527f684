"""How a process ended, in words."""

import signal


def ended(status: int) -> str:
    """How a process ended, by its status; that is negative for the signal that killed it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        # Real-time signals have no names there.
        return f"killed by signal {-status}"
