"""Runs the checks of one client: what a module has that is called ``check_...``.

Takes the name of the module; writes what went wrong in each check, or null, as JSON. Runs in the
environment of the clients, where nothing of this project is installed.
"""

import asyncio
import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

PREFIX = "check_"
LONGEST_LOCAL = 1000


def outcome(check: Callable[[], Any]) -> str | None:
    """What goes wrong in a check: the traceback, with the variables where it was raised."""
    try:
        result = check()
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception as error:
        _, _, trace = sys.exc_info()
        frames = [frame for frame, _ in traceback.walk_tb(trace)]
        ours = [frame for frame in frames if frame.f_code.co_name.startswith(PREFIX)]
        names = ours[-1].f_locals if ours else {}
        known = [f"{name} = {value!r}"[:LONGEST_LOCAL] for name, value in names.items()]
        return "\n".join([traceback.format_exc(), *known, repr(error)])
    return None


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    with redirect_stdout(sys.stderr):
        report = {
            name.removeprefix(PREFIX): outcome(check)
            for name, check in vars(module).items()
            if name.startswith(PREFIX)
        }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
