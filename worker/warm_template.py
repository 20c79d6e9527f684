"""A template whose KV cache holds a prefix already, for workers that are born with it.

A fork of the template that loaded the model evaluates the prefix, and serves forks in its turn. An
engine may evaluate before a fork only if its threads end with each evaluation: a thread does not
survive a fork, and what it held locked would stay so.
"""

import gc
import logging
import os
import select
import threading
from collections.abc import Sequence

from shared.errors import EngineError
from worker.engines.base import Engine, SlotTokens

_SLOT = 0
# Niceness of a thread that evaluates while others are served: about a tenth of a core that is
# wanted by them, all of one that is not.
_BACKGROUND = 10

logger = logging.getLogger(__name__)


def warm(
    engine: Engine, prompts: Sequence[Sequence[int]], threads: int, is_urgent: bool, alive: int
) -> int:
    """Evaluate what the prompts begin with, as one token sequence, into the cache of ``engine``.

    Args:
        engine: a loaded engine that nothing was evaluated with.
        prompts: one, or several of which only the common beginning is meant.
        threads: how many an evaluation may use.
        is_urgent: nobody is served until this is done; else one thread works in the background.
        alive: a descriptor that can be read once nobody waits for this any more; ends the process.

    Returns:
        How many tokens the cache holds.

    Raises:
        EngineError: the prefix has no tokens, or does not leave room in the context, or the engine
            cannot be forked after an evaluation.
    """
    if not engine.forks_after_evaluation:
        raise EngineError("this engine cannot be forked once it has evaluated something")
    tokens = _common(prompts)
    n_ctx = engine.info.n_ctx
    if not 1 <= len(tokens) < n_ctx:
        raise EngineError(
            f"the prefix has {len(tokens)} tokens; it must have at least 1 and fewer than the"
            f" {n_ctx} of the context, prompt and completion together"
        )
    engine.reuse_prefix(_SLOT, tokens)
    failures: list[Exception] = []

    def evaluate() -> None:
        try:
            if not is_urgent and hasattr(os, "setpriority"):
                # Of this thread alone (Linux), and of those that the engine starts from it: a
                # process could not take its own niceness back, and its forks would inherit it.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND)
            ended = select.poll()  # `select.select` takes no descriptor above 1,023
            ended.register(alive, select.POLLIN)
            n_done = 0
            while n_done < len(tokens):
                if ended.poll(0):
                    os._exit(0)
                chunk = tokens[n_done : n_done + engine.chunk_size(_SLOT)]
                engine.forward([SlotTokens(_SLOT, chunk)], threads if is_urgent else 1)
                n_done += len(chunk)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=evaluate, name="warm")
    thread.start()
    thread.join()
    if failures:
        raise EngineError(f"the prefix could not be evaluated: {failures[0]}") from failures[0]
    # As when the model was loaded: see `worker.template`.
    engine.rest()
    gc.collect()
    gc.freeze()
    return len(tokens)


def _common(sequences: Sequence[Sequence[int]]) -> list[int]:
    first, *others = sequences
    n = 0
    while all(n < len(each) and each[n] == first[n] for each in (first, *others)):
        n += 1
    return list(first[:n])
