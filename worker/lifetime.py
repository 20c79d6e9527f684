"""A process of ours ends with the gateway, whatever it is doing and however the gateway ends."""

import fcntl
import os
import select
import signal
import threading


def end_with_gateway(pipe: int) -> None:
    """Have the kernel end this process when the gateway is gone, even if it is stopped.

    A parent's death could do that, too (``PR_SET_PDEATHSIG``), but the zygote is the parent, and
    workers outlive that.

    Args:
        pipe: the reading end of a pipe that nobody writes to, and whose other end only the gateway
            has. It is this process's alone: all that share it share the setting.
    """
    try:
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:  # a sandbox that emulates the kernel without this part
        threading.Thread(target=_wait, args=(pipe,), name="end-with-gateway", daemon=True).start()
    ended = select.poll()
    ended.register(pipe, select.POLLIN)
    if ended.poll(0):  # before the kernel was asked
        os._exit(0)


def _wait(pipe: int) -> None:
    os.read(pipe, 1)
    os._exit(0)
