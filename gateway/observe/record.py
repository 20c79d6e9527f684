"""The record of an HTTP request: the log line, the metrics and the span are made of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

from shared.messages import Failed, Finished, Prefilled
from shared.times import TEXT_GAP_BOUNDS_S, Times

_KEY = "gateway.record"

CLIENT_LEFT = 499
"""In place of a status: the client went away before the end of its answer."""


@dataclass(slots=True)
class Transcript:
    """The text of a generation, for ``LOG_PROMPTS``."""

    prompt: str
    completion: str = ""

    def add(self, text: str) -> None:
        self.completion += text


@dataclass(slots=True)
class GenerationRecord:
    """What became of a generation, made of its events."""

    #: Seconds that it waited for the worker that ran it last; None if that is not known.
    queue_s: float | None = None
    #: Its first token came, by `time.monotonic`.
    first_s: float | None = None
    #: The worker that ran it last.
    worker_id: int | None = None
    #: How often it was given to a worker.
    runs: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    #: If it was cut short, those whose text has come.
    completion_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    #: See `shared.messages.Times`.
    gap_counts: Sequence[int] = (0,) * (len(TEXT_GAP_BOUNDS_S) + 1)
    gaps_s: float = 0.0
    #: The finish reason, or the code of the error; ``cancelled`` until it has ended.
    outcome: str = "cancelled"

    def note(self, event: Prefilled | Finished | Failed) -> None:
        """Take note of an event that is no `Delta`: those come one for each token."""
        if isinstance(event, Prefilled):
            self.first_s = time.monotonic()
            self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens
            self.prefill_ms = event.prefill_ms
        elif isinstance(event, Finished):
            self.completion_tokens, self.decode_ms = event.completion_tokens, event.decode_ms
            self.outcome = event.finish_reason
        else:
            self.outcome = event.code
        if event.times is not None:
            self._note_times(event.times)

    def _note_times(self, times: Times) -> None:
        self.queue_s, self.worker_id, self.runs = times.queue_s, times.worker_id, times.runs
        self.gap_counts, self.gaps_s = times.gap_counts, times.gaps_s
        if times.first_s is not None:
            self.first_s = time.monotonic() - (times.total_s - times.first_s)


@dataclass(slots=True)
class RequestRecord:
    """One request. Times are those of `time.monotonic`."""

    request_id: str
    #: The headers are complete.
    began_s: float
    method: str = ""
    #: Percent-encoded, and cut if it is long.
    path: str = ""
    #: Path of the route; ``other`` if there is none.
    endpoint: str = "other"
    #: Name of the API key; None where no key is required.
    key_name: str | None = None
    is_stream: bool = False
    #: `ErrorCode` of the answer, or of the event that ended a stream; empty if there is none.
    error_code: str = ""
    #: One for each choice of each prompt; choices of one prompt are neighbours.
    generations: list[GenerationRecord] = field(default_factory=list)
    #: Choices of each prompt.
    choices: int = 1
    #: One for each generation if prompts are logged, else none.
    transcripts: list[Transcript] = field(default_factory=list)
    #: HTTP status; `CLIENT_LEFT` until the answer is complete.
    status: int = CLIENT_LEFT
    #: The answer begins; a stream begins with its first text.
    head_s: float | None = None
    #: The answer is complete, or the client has left.
    ended_s: float | None = None
    #: As ASGI has them. Never log them: they may hold a key.
    headers: Sequence[tuple[bytes, bytes]] = field(default=(), repr=False)

    @property
    def is_cut_off(self) -> bool:
        return self.status == CLIENT_LEFT

    @property
    def outcome(self) -> str:
        """The finish reason of all choices, ``mixed``, ``cancelled`` or the error's code.

        Empty if nothing was to be generated.
        """
        if self.error_code or not self.generations:
            return self.error_code
        if self.is_cut_off:
            return "cancelled"
        outcomes = {generation.outcome for generation in self.generations}
        return outcomes.pop() if len(outcomes) == 1 else "mixed"

    @property
    def prompt_tokens(self) -> int:
        """A prompt counts once, however many choices it has; as in the answer's usage."""
        return sum(each.prompt_tokens for each in self.generations[:: self.choices])

    @property
    def cached_tokens(self) -> int:
        return sum(each.cached_tokens for each in self.generations[:: self.choices])

    @property
    def completion_tokens(self) -> int:
        return sum(each.completion_tokens for each in self.generations)

    @property
    def total_s(self) -> float:
        """Seconds from the headers to the end of the answer; 0 until then."""
        return 0.0 if self.ended_s is None else self.ended_s - self.began_s

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the headers to the first text of a stream, else to the first token."""
        if self.is_stream:
            first_s = None if self.error_code and self.status >= 400 else self.head_s
        else:
            times = [each.first_s for each in self.generations if each.first_s is not None]
            first_s = min(times, default=None)
        return None if first_s is None else first_s - self.began_s

    @property
    def queue_s(self) -> float | None:
        """The longest time in seconds that one of its generations waited; None if none ran."""
        waits = [each.queue_s for each in self.generations if each.queue_s is not None]
        return max(waits, default=None)


def begin_record(scope: Scope, request_id: str, began_s: float) -> RequestRecord:
    """Make the record of a request, and keep it in the request's ASGI scope."""
    record = RequestRecord(request_id, began_s)
    scope[_KEY] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    record: RequestRecord = scope[_KEY]
    return record


def note_error(scope: Scope, code: str) -> None:
    """Note the code of an error; does nothing where there is no record."""
    if _KEY in scope:
        record_of(scope).error_code = code
