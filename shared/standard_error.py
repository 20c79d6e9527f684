"""Where a worker's standard error goes: the C library's into a pipe, the log's where it went."""

import faulthandler
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def run_with_standard_error(pipe: Any, target: Callable[..., None], *arguments: Any) -> None:
    """Body of a process: run ``target`` with its descriptor 2 at the end of a pipe.

    What C code writes there, the last words of an abort, and the Python traceback of a fatal signal
    arrive where the pipe is read. `sys.stderr`, and with it the log of the process, remains what
    it was.

    Args:
        pipe: the writing end of a pipe, a `multiprocess` ``Connection``; is closed.
        target: what to run.
        arguments: for ``target``.

    Raises:
        SystemExit: ``target`` raised something; its traceback is in the pipe.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(pipe.fileno(), 2)
    pipe.close()
    faulthandler.enable(2)
    try:
        target(*arguments)
    except Exception:
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        sys.exit(1)
