"""The decode loop: take commands, evaluate a batch of all slots, sample, emit."""

import base64
import logging
import time
from collections.abc import Sequence as Items
from typing import Protocol, TypeAlias

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
    Save,
    Saved,
    SetThreads,
    Shutdown,
)
from shared.typing import assert_never
from worker.batches import Batches, Row
from worker.engines.base import Engine, Logits
from worker.grammar.grammars import Grammars
from worker.grammar.matcher import GrammarError
from worker.prefix_memory import PrefixMemory
from worker.sequence import Sequence
from worker.threads import ThreadShare

# What runs is heard of at least so often, or after each evaluation that takes longer.
_SILENCE_S = 0.5

Sent: TypeAlias = Event | Progress | Saved

logger = logging.getLogger(__name__)


class Inbox(Protocol):
    """The reading side of a worker's pipe of commands; see `worker.pipes.Inbox`."""

    def get(self) -> bytes:
        """The next encoded command; blocks until there is one."""

    def empty(self) -> bool:
        """Whether `get` would block."""

    def fileno(self) -> int:
        """The descriptor that becomes readable with a command."""


class Outbox(Protocol):
    """The writing side of a worker's pipe of events; see `worker.pipes.Outbox`."""

    def send(self, events: Items[Sent], /) -> None:
        """Send events to the gateway, or keep them where it does not read fast enough."""

    def drain(self, until: Inbox, /) -> None:
        """Wait until all that was kept is sent, or there is a command."""


class Loop:
    """Runs generations on the slots of an engine until it is told to shut down."""

    def __init__(
        self,
        engine: Engine,
        threads: int,
        inbox: Inbox,
        outbox: Outbox,
        grammars: Grammars | None = None,
        memory: PrefixMemory | None = None,
    ) -> None:
        """Use so many threads until `SetThreads` says otherwise; the grammars are the engine's."""
        self._engine = engine
        self._grammars = Grammars(engine) if grammars is None else grammars
        self._threads = ThreadShare(threads)
        self._inbox = inbox
        self._outbox = outbox
        # By slot, the one that has run the longest first.
        self._sequences: dict[int, Sequence] = {}
        self._batches = Batches(engine, self._sequences, self._threads, memory)
        # Of this step; one write sends them.
        self._events: list[Sent] = []
        self._is_over = False
        self._heard_s = 0.0

    def run(self) -> None:
        """Work until `Shutdown` arrives."""
        while not self._is_over:
            self.step()

    def step(self) -> None:
        """Take the commands that are there, then evaluate one batch if there is anything to."""
        self._take_commands()  # blocks only if nothing runs
        if self._is_over:
            return
        batch = self._batches.schedule()
        for (sequence, _), row in zip(batch, self._batches.forward(batch), strict=True):
            self._advance(sequence, row)
        self._send()

    def _take_commands(self) -> None:
        while not self._is_over and (not self._sequences or not self._inbox.empty()):
            if self._inbox.empty():
                self._send()
                request_id_var.set("")
                self._outbox.drain(self._inbox)
            self._handle(decode(self._inbox.get()))
        self._send()  # what has ended by a command does not wait for an evaluation

    def _handle(self, command: Command) -> None:
        match command:
            case Generate():
                self._admit(command)
            case Save(slot, region):
                self._events.append(Saved(region, self._batches.save(slot, region)))
            case Cancel(request_id):
                for sequence in list(self._sequences.values()):
                    if sequence.request.request_id == request_id:
                        self._finish(sequence, "", "cancelled")
            case SetThreads(threads):
                self._threads.set_share(threads, time.monotonic(), bool(self._sequences))
            case Shutdown():
                self._is_over = True
            case Prepare() | Detokenize():
                raise ValueError(f"for a preparer: {type(command).__name__}")
            case _:
                assert_never(command)

    def _admit(self, request: Generate) -> None:
        """Begin a generation, with the part of the slot's cache that it can use."""
        request_id_var.set(request.trace_id)
        if not self._sequences:
            self._heard_s = time.monotonic()
        engine, slot, prompt = self._engine, request.slot, list(request.ids)
        try:
            if slot in self._sequences or not 0 <= slot < engine.n_slots:
                raise EngineError(f"slot {slot} is not free")
            if (room := engine.info.n_ctx - len(prompt)) < 0:
                raise EngineError(f"{len(prompt)} tokens do not fit into the context")
            grammar = request.grammar
            matcher = None if grammar is None else self._grammars.matcher(grammar)
            cached_tokens, restored_tokens = self._batches.reuse_prefix(request)
            budget = room if request.max_tokens is None else min(request.max_tokens, room)
            self._sequences[slot] = Sequence(
                engine, request, prompt, cached_tokens=cached_tokens,
                restored_tokens=restored_tokens, budget=budget, matcher=matcher,
            )  # fmt: skip
        except Exception as error:
            self._events.append(_failure(request, error))
            return
        logger.debug(
            "generation %s has %d tokens, %d of them cached",
            request.request_id, len(prompt), cached_tokens,
        )  # fmt: skip

    def _advance(self, sequence: Sequence, row: Row) -> None:
        """Take in what an evaluation has yielded; whatever goes wrong ends this sequence alone."""
        n_events = len(self._events)
        try:
            if isinstance(row, Exception):
                raise row
            if sequence.pending:
                sequence.note_prompt(row)
                return
            if sequence.is_prefilling:
                self._events.append(sequence.prefilled())
            if sequence.request.embeds:
                self._finish(sequence, "", "stop")
            elif sequence.budget == 0:
                self._finish(sequence, "", "length")
            else:
                assert row is not None, "these logits were wanted"
                self._draw(sequence, row)
        except Exception as error:
            self._batches.drop(sequence.request.slot)
            self._events[n_events:] = [_failure(sequence.request, error)]

    def _draw(self, sequence: Sequence, logits: Logits) -> None:
        token = sequence.draw(logits)
        if token is None:
            self._finish(sequence, sequence.end(), "stop")
            return
        text, reason = sequence.append(token)
        if reason is not None:
            self._finish(sequence, text, reason)
        elif text:
            self._events.append(sequence.delta(text))

    def _finish(self, sequence: Sequence, text: str, reason: str) -> None:
        request = sequence.request
        embedding = ""
        if request.embeds and reason != "cancelled":
            embedding = _encoded(self._engine.embedding(request.slot))
        if text or sequence.has_unreported_logprobs:
            self._events.append(sequence.delta(text, is_last=True))
        self._events.append(
            Finished(
                request.request_id,
                reason,
                sequence.completion_tokens,
                sequence.lap_ms(),
                embedding,
                tuple(sequence.generated),
                self._batches.state_bytes(request.slot),
            )
        )
        self._batches.drop(request.slot)

    def _send(self) -> None:
        """Send the events of this step; if there are none, say now and then that it goes on."""
        if not self._events and self._sequences:
            now_s = time.monotonic()
            if now_s - self._heard_s >= _SILENCE_S:
                first = next(iter(self._sequences.values()))
                self._events.append(Progress(first.request.request_id))
        if self._events:
            self._heard_s = time.monotonic()
            events, self._events = self._events, []
            self._outbox.send(events)


def _failure(request: Generate, error: Exception) -> Failed:
    """Whatever went wrong ends this generation, and nothing else."""
    request_id, message = request.request_id, str(error)
    if isinstance(error, GrammarError):
        # The message goes on where the gateway has named the field of the request.
        code, message = ErrorCode.INVALID_VALUE.value, f"cannot be used: {error}"
        return Failed(request_id, code, message, "grammar")
    if not isinstance(error, EngineError):
        logger.error("generation %s failed", request_id, exc_info=error)
        message = "the generation failed; the server's log says why"
    return Failed(request_id, ErrorCode.ENGINE_ERROR.value, message)


def _encoded(embedding: NDArray[np.float32]) -> str:
    """An embedding of length 1, as `Finished` has it."""
    length = float(np.linalg.norm(embedding.astype(np.float64)))
    unit = embedding / (length or 1.0)
    return base64.b64encode(unit.astype("<f4").tobytes()).decode("ascii")
