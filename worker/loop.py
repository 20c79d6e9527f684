"""The decode loop: take commands, evaluate a chunk, sample, emit; one sequence at a time."""

import logging
import time
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineError, ErrorCode
from shared.logging import request_id_var
from shared.messages import (
    Cancel,
    Command,
    Delta,
    Event,
    Failed,
    Finished,
    Generate,
    Prefilled,
    Progress,
    SetThreads,
    Shutdown,
    decode,
)
from shared.typing import assert_never
from worker.engines.base import Engine, SlotTokens
from worker.sequence import Sequence
from worker.threads import ThreadShare

_SLOT = 0
# What runs is heard of at least so often, or after each evaluation that takes longer.
_SILENCE_S = 0.5

logger = logging.getLogger(__name__)


class Inbox(Protocol):
    """The reading side of a worker's queue; see `worker.inbox.Inbox`."""

    def get(self) -> bytes:
        """The next encoded command; blocks until there is one."""

    def empty(self) -> bool:
        """Whether `get` would block."""

    def fileno(self) -> int:
        """The descriptor that becomes readable with a command."""


class Outbox(Protocol):
    """The writing side of a worker's pipe; see `worker.outbox.Outbox`."""

    def send(self, events: Items[Event | Progress], /) -> None:
        """Send events to the gateway, or keep them where it does not read fast enough."""

    def drain(self, until: Inbox, /) -> None:
        """Wait until all that was kept is sent, or there is a command."""


class Loop:
    """Runs generations on an engine until it is told to shut down."""

    def __init__(self, engine: Engine, threads: int, inbox: Inbox, outbox: Outbox) -> None:
        """Wire the loop.

        Args:
            engine: a loaded engine.
            threads: how many threads an evaluation uses until `SetThreads` says otherwise.
            inbox: where commands come from.
            outbox: where events go.
        """
        self._engine = engine
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
                self._engine.rest()
            self._handle(decode(self._inbox.get()))
            if self._shutdown:
                return
        sequence = self._sequence
        try:
            self._advance(sequence)
        except Exception as error:
            # Whatever went wrong ends this generation, and nothing else.
            message = str(error)
            if not isinstance(error, EngineError):
                logger.exception("generation %s failed", sequence.request.request_id)
                message = "the generation failed; the server's log says why"
            self._fail(sequence.request.request_id, ErrorCode.ENGINE_ERROR, message)

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
            case _:
                assert_never(command)

    def _admit(self, request: Generate) -> None:
        request_id_var.set(request.trace_id)
        self._heard_s = time.monotonic()
        try:
            prompt = self._engine.tokenize(request.prompt)
        except Exception:
            logger.exception("the prompt of %s could not be tokenized", request.request_id)
            self._fail(
                request.request_id, ErrorCode.INVALID_PROMPT, "the prompt could not be tokenized"
            )
            return
        n_ctx, n_prompt = self._engine.info.n_ctx, len(prompt)
        room = n_ctx - n_prompt
        wanted = room if request.max_tokens is None else request.max_tokens
        if n_prompt == 0:
            self._fail(
                request.request_id,
                ErrorCode.INVALID_PROMPT,
                "the prompt is empty; this model needs at least one token to continue from",
                param="prompt",
            )
        elif room < 1 or (wanted > room and not request.max_tokens_is_default):
            asked = "" if request.max_tokens is None else f" and {wanted} for the completion"
            self._fail(
                request.request_id,
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"This model's context length is {n_ctx} tokens, prompt and completion together;"
                f" this request has {n_prompt} in the prompt{asked}."
                " Shorten the prompt or lower max_tokens.",
                param="prompt" if room < 1 else "max_tokens",
            )
        else:
            self._note_silence(request.request_id)
            cached_tokens = self._engine.reuse_prefix(_SLOT, prompt)
            self._sequence = Sequence(request, prompt, cached_tokens, min(wanted, room))
            logger.debug(
                "generation %s has %d tokens, %d of them cached",
                request.request_id, n_prompt, cached_tokens,
            )  # fmt: skip

    def _advance(self, sequence: Sequence) -> None:
        engine = self._engine
        prefilling = sequence.completion_tokens == 0
        chunk = SlotTokens(_SLOT, sequence.take_chunk(engine.chunk_size(_SLOT)))
        logits = self._forward(chunk)
        request_id = sequence.request.request_id
        if sequence.pending:
            self._note_silence(request_id)
            return
        events: list[Event] = []
        if prefilling:
            events.append(
                Prefilled(
                    request_id, sequence.prompt_tokens, sequence.cached_tokens, sequence.lap_ms()
                )
            )
        token = sequence.sampler.sample(logits)
        if token in engine.eog:
            text, _ = sequence.end()
            reason: str | None = "stop"
        else:
            text, reason = sequence.append(token, engine.token_bytes(token))
        if reason is not None:
            self._finish(sequence, text, reason, events)
            return
        if text:
            events.append(Delta(request_id, text, sequence.unreported_tokens))
            sequence.unreported_tokens = 0
        if events:
            self._outbox.send(events)
        else:
            self._note_silence(request_id)

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
        request_id = sequence.request.request_id
        if text:
            events.append(Delta(request_id, text, sequence.unreported_tokens))
        events.append(Finished(request_id, reason, sequence.completion_tokens, sequence.lap_ms()))
        self._sequence = None
        self._outbox.send(events)

    def _fail(
        self, request_id: str, code: ErrorCode, message: str, param: str | None = None
    ) -> None:
        self._sequence = None
        self._outbox.send([Failed(request_id, code.value, message, param)])
