"""Renders templates that no one should, in a process of its own with little time and memory.

Reads a list of ``[source, scale]`` as JSON; writes for each a line with how it ended and how long
it took. ``scale`` is the part of the usual allowance of work that it gets, so that tests are quick.
"""

import json
import resource
import sys
import time

from gateway.chat import meter
from gateway.chat.sandbox import ChatTemplate
from gateway.chat.special import SpecialTokens

_WORK = meter._WORK
_MEMORY = 1 << 30
_SECONDS = 100


def outcome(source: str) -> str:
    """How the rendering of a template ends."""
    variables = {"messages": [{"role": "user", "content": "Hi"}]}
    try:
        ChatTemplate(source, SpecialTokens(["<s>", "xx"])).render(variables, 100_000)
    except Exception as error:
        return type(error).__name__
    return "rendered"


def main() -> None:
    """Dispose of them all."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    for source, scale in json.load(sys.stdin):
        meter._WORK = int(_WORK * scale)
        started = time.thread_time()
        ended = outcome(source)
        print(json.dumps([ended, time.thread_time() - started]), flush=True)


if __name__ == "__main__":
    main()
