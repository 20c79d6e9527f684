"""The composition root: settings, model, plan, pool, application, server; and the other commands.

Light at module level: every worker imports the main module of the process that started it, and
Ctrl-C amid these imports ends in a traceback.
"""

import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``serve``, which is the default, ``inspect`` or ``build-engine``.

    The exit status is 0 after a shutdown, 1 if no worker could load the model, 2 for a mistake in
    the settings, 130 after Ctrl-C before the server was up.
    """
    # An exception would be lost where Python has none to raise it to, as amid an import.
    signal.signal(signal.SIGINT, _leave)
    _open_standard_files()
    arguments = sys.argv[1:] if arguments is None else arguments
    match arguments[:1]:
        case ["inspect"]:
            from gateway.inspect import main as inspect

            return inspect(arguments[1:])
        case ["convert"]:
            return _refuse("convert is gone; llama.cpp's convert_hf_to_gguf.py makes GGUF files")
        case ["build-engine"]:
            from gateway.demo_model import default_cache_dir
            from worker.build.command import main as build_engine

            # It has compilers to end, and files to remove.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return build_engine(arguments[1:], default_cache_dir())
        case ["serve"]:
            return _serve(arguments[1:])
        case _:
            return _serve(arguments)


def _leave(*_: object) -> None:
    os.write(2, b"ggml-fastapi: interrupted\n")
    os._exit(130)


def _open_standard_files() -> None:
    """Where one of them is closed, a socket would get its number, and then what is printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free; the workers inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _serve(arguments: Sequence[str]) -> int:
    from gateway.machine import has_terminal
    from gateway.settings import Settings
    from shared.errors import UsageError
    from shared.logging import configure_logging

    if not has_terminal():
        # It asks for a reload, and there is nothing yet to be replaced; the default would end us.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = Settings.load(arguments, os.environ)
        configure_logging(settings.log_level.upper(), settings.log_format)

        # What takes a second to import is not waited for by a mistake in a setting, or by --help.
        from gateway.auth import access_for
        from gateway.listening import tls_context
        from worker.prompt.formats import load_chat_template

        # What is wrong with these need not wait for a download.
        access_for(settings)
        tls_context(settings)
        if settings.chat_template is not None:
            load_chat_template(settings.chat_template)

        from gateway.plan import plan_for

        plan = plan_for(settings)

        from uvloop import run  # takes a fifth less CPU time for each token than asyncio's loop

        from gateway.launch import Launch
        from gateway.server import serve
        from worker.main import run_preparer, run_worker

        return run(serve(Launch(settings, run_worker, run_preparer), plan))
    except UsageError as error:
        return _refuse(str(error))


def _refuse(reason: str) -> int:
    print(f"ggml-fastapi: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
