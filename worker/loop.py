"""The decode loop: take commands, evaluate a chunk, sample, emit; one sequence at a time."""

import base64
import logging
import time
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.encoding import decode
from shared.errors import EngineError, ErrorCode
from shared.logging import request_id_var
from shared.messages import (
    Cancel,
    Command,
    Detokenize,
    Event,
    Failed,
    Finished,
    Generate,
    Prepare,
    Progress,
    SetThreads,
    Shutdown,
)
from shared.typing import assert_never
from worker.admission import admit, grammar_refusal
from worker.engines.base import Engine, SlotTokens
from worker.grammar.grammars import Grammars
from worker.grammar.matcher import GrammarError
from worker.sequence import Sequence
from worker.threads import ThreadShare

_SLOT = 0
# What runs is heard of at least so often, or after each evaluation that takes longer.
_SILENCE_S = 0.5

logger = logging.getLogger(__name__)


class Inbox(Protocol):
    """The reading side of a worker's queue; see `worker.pipes.Inbox`."""

    def get(self) -> bytes:
        """The next encoded command; blocks until there is one."""

    def empty(self) -> bool:
        """Whether `get` would block."""

    def fileno(self) -> int:
        """The descriptor that becomes readable with a command."""


class Outbox(Protocol):
    """The writing side of a worker's pipe; see `worker.pipes.Outbox`."""

    def send(self, events: Items[Event | Progress], /) -> None:
        """Send events to the gateway, or keep them where it does not read fast enough."""

    def drain(self, until: Inbox, /) -> None:
        """Wait until all that was kept is sent, or there is a command."""


class Loop:
    """Runs generations on an engine until it is told to shut down."""

    def __init__(
        self,
        engine: Engine,
        threads: int,
        inbox: Inbox,
        outbox: Outbox,
        grammars: Grammars | None = None,
    ) -> None:
        """Wire the loop.

        Args:
            engine: a loaded engine.
            threads: how many threads an evaluation uses until `SetThreads` says otherwise.
            inbox: where commands come from.
            outbox: where events go.
            grammars: those of ``engine``, if there are some already.
        """
        self._engine = engine
        self._grammars = Grammars(engine) if grammars is None else grammars
        self._threads = ThreadShare(threads)
        self._inbox = inbox
        self._outbox = outbox
        self._sequence: Sequence | None = None
        self._shutdown = False
        self._heard_s = 0.0

    def run(self) -> None:
        """Work until `Shutdown` arrives."""
        while not self._shutdown:
            self.step()

    def step(self) -> None:
        """Take the commands that are there, then evaluate one chunk if there is a sequence.

        Blocks only while there is no sequence to run.
        """
        while self._sequence is None or not self._inbox.empty():
            if self._sequence is None and self._inbox.empty():
                request_id_var.set("")
                self._outbox.drain(self._inbox)
            self._handle(decode(self._inbox.get()))
            if self._shutdown:
                return
        sequence = self._sequence
        try:
            self._advance(sequence)
        except GrammarError as error:
            self._fail(grammar_refusal(sequence.request, error))
        except Exception as error:
            self._fail(_failure(sequence.request, error))

    def _handle(self, command: Command) -> None:
        match command:
            case Generate():
                self._admit(command)
            case Cancel(request_id):
                sequence = self._sequence
                if sequence is not None and sequence.request.request_id == request_id:
                    self._finish(sequence, "", "cancelled")
            case SetThreads(threads):
                is_running = self._sequence is not None
                self._threads.set_share(threads, time.monotonic(), is_running)
            case Shutdown():
                self._shutdown = True
            case Prepare() | Detokenize():
                raise ValueError(f"for a preparer: {type(command).__name__}")
            case _:
                assert_never(command)

    def _admit(self, request: Generate) -> None:
        request_id_var.set(request.trace_id)
        self._heard_s = time.monotonic()
        try:
            admitted = admit(self._engine, self._grammars, request)
        except Exception as error:
            admitted = _failure(request, error)
        if isinstance(admitted, Failed):
            self._fail(admitted)
            return
        self._note_silence(request.request_id)
        self._sequence = admitted
        logger.debug(
            "generation %s has %d tokens, %d of them cached",
            request.request_id, admitted.prompt_tokens, admitted.cached_tokens,
        )  # fmt: skip

    def _advance(self, sequence: Sequence) -> None:
        chunk = SlotTokens(_SLOT, sequence.take_chunk(self._engine.chunk_size(_SLOT)))
        logits = self._forward(chunk)
        if sequence.pending:
            sequence.note_prompt(logits)
            self._note_silence(sequence.request.request_id)
            return
        events: list[Event] = []
        if sequence.is_prefilling:
            events.append(sequence.prefilled())
        if sequence.request.embeds:
            self._finish(sequence, "", "stop", events)
            return
        if sequence.budget == 0:
            self._finish(sequence, "", "length", events)
            return
        token = sequence.draw(logits)
        reason: str | None = "stop"
        if token is None:
            text = sequence.end()
        else:
            text, reason = sequence.append(token)
        if reason is not None:
            self._finish(sequence, text, reason, events)
            return
        if text:
            events.append(sequence.delta(text))
        if events:
            self._outbox.send(events)
        else:
            self._note_silence(sequence.request.request_id)

    def _note_silence(self, request_id: str) -> None:
        """Say now and then that there is nothing to tell; only then the clock has to be read."""
        now_s = time.monotonic()
        if now_s - self._heard_s >= _SILENCE_S:
            self._heard_s = now_s
            self._outbox.send([Progress(request_id)])

    def _forward(self, chunk: SlotTokens) -> NDArray[np.float32]:
        if self._threads.is_one_thread:  # nothing to choose, and nothing to learn
            (logits,) = self._engine.forward([chunk], 1)
            return logits
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        threads = self._threads.choose(began_s)
        (logits,) = self._engine.forward([chunk], threads)
        now_s = time.monotonic()
        self._threads.learn(threads, now_s - began_s, time.process_time() - began_cpu_s, now_s)
        return logits

    def _finish(
        self, sequence: Sequence, text: str, reason: str, events: list[Event] | None = None
    ) -> None:
        events = [] if events is None else events
        if text or sequence.has_unreported_logprobs:
            events.append(sequence.delta(text, is_last=True))
        embeds = sequence.request.embeds and reason != "cancelled"
        events.append(
            Finished(
                sequence.request.request_id,
                reason,
                sequence.completion_tokens,
                sequence.lap_ms(),
                _encoded(self._engine.embedding()) if embeds else "",
                tuple(sequence.generated),
            )
        )
        self._sequence = None
        self._outbox.send(events)

    def _fail(self, failed: Failed) -> None:
        self._sequence = None
        self._outbox.send([failed])


def _failure(request: Generate, error: Exception) -> Failed:
    """Whatever went wrong ends this generation, and nothing else."""
    message = str(error)
    if not isinstance(error, EngineError):
        logger.error("generation %s failed", request.request_id, exc_info=error)
        message = "the generation failed; the server's log says why"
    return Failed(request.request_id, ErrorCode.ENGINE_ERROR.value, message)


def _encoded(embedding: NDArray[np.float32]) -> str:
    """An embedding of length 1, as `Finished` has it."""
    length = float(np.linalg.norm(embedding.astype(np.float64)))
    unit = embedding / (length or 1.0)
    return base64.b64encode(unit.astype("<f4").tobytes()).decode("ascii")
