"""What is known of an HTTP request while it is answered, for its log line and the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

from gateway.pool.base import GenerationRecord

_KEY = "gateway.record"

CLIENT_LEFT = 499
"""Stands in place of a status when the client went away before the end of its answer."""


@dataclass(slots=True)
class Transcript:
    """What went into a generation and what came out.

    Attributes:
        prompt: the whole prompt, as the model was given it.
        completion: the text that has come of it so far.
    """

    prompt: str
    completion: str = ""

    def add(self, text: str) -> None:
        """Note further text of the completion."""
        self.completion += text


@dataclass(slots=True)
class RequestRecord:
    """One request; those who deal with it write down what they know.

    Attributes:
        request_id: its ``x-request-id``, taken or made.
        began_s: when its headers were there, by `time.monotonic`.
        method: the HTTP method.
        path: of its URL, percent-encoded and cut if it is long.
        endpoint: the path of the route that it is for; ``other`` if there is none.
        key_name: name of the API key that it came with; None where no key is asked for.
        is_stream: whether its answer is a stream.
        error_code: the code of the error that it was answered with; empty if it was not.
        generations: one for each generation that it asked for.
        choices: how many in a row of them share a prompt.
        transcripts: one for each of them if prompts are logged, else none.
        status: the HTTP status of its answer; `CLIENT_LEFT` until that is complete.
        head_s: when its answer began. That of a stream begins with the first text.
        ended_s: when its answer had ended.
        headers: its headers as ASGI has them; never to be logged, since a key may be among them.
    """

    request_id: str
    began_s: float
    method: str = ""
    path: str = ""
    endpoint: str = "other"
    key_name: str | None = None
    is_stream: bool = False
    error_code: str = ""
    generations: list[GenerationRecord] = field(default_factory=list)
    choices: int = 1
    transcripts: list[Transcript] = field(default_factory=list)
    status: int = CLIENT_LEFT
    head_s: float | None = None
    ended_s: float | None = None
    headers: Sequence[tuple[bytes, bytes]] = field(default=(), repr=False)

    @property
    def outcome(self) -> str:
        """The finish reason of its choices, ``mixed`` if they differ, or its error's code.

        Empty if it asked for no generation; ``cancelled`` if its client went away.
        """
        if self.error_code or not self.generations:
            return self.error_code
        if self.status == CLIENT_LEFT:
            return "cancelled"
        outcomes = {generation.outcome for generation in self.generations}
        return outcomes.pop() if len(outcomes) == 1 else "mixed"

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompts; one that several choices share counts once, as in the usage."""
        return sum(each.prompt_tokens for each in self.generations[:: self.choices])

    @property
    def cached_tokens(self) -> int:
        """Those of them that came from a KV cache."""
        return sum(each.cached_tokens for each in self.generations[:: self.choices])

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(each.completion_tokens for each in self.generations)

    @property
    def total_s(self) -> float:
        """Seconds from its headers to the end of its answer; 0 until then."""
        return 0.0 if self.ended_s is None else self.ended_s - self.began_s

    @property
    def ttft_s(self) -> float | None:
        """Seconds from its headers to the first text that was sent.

        To the first token of an answer that is not streamed. None if there was none.
        """
        if self.is_stream:
            first_s = None if self.error_code and self.status >= 400 else self.head_s
        else:
            times = [each.first_s for each in self.generations if each.first_s is not None]
            first_s = min(times, default=None)
        return None if first_s is None else first_s - self.began_s

    @property
    def queue_s(self) -> float | None:
        """Seconds that the generation waited for a worker that waited longest; None if none ran."""
        waits = [waited for each in self.generations if (waited := waited_s(each)) is not None]
        return max(waits, default=None)


def waited_s(generation: GenerationRecord) -> float | None:
    """Seconds that a generation waited for the worker that ran it last; None if none did."""
    if generation.submitted_s is None or generation.started_s is None:
        return None
    return generation.started_s - generation.submitted_s


def begin_record(scope: Scope, request_id: str, began_s: float) -> RequestRecord:
    """Make the record of a request, whose ASGI scope keeps it."""
    record = RequestRecord(request_id, began_s)
    scope[_KEY] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request with this scope."""
    record: RequestRecord = scope[_KEY]
    return record


def note_error(scope: Scope, code: str) -> None:
    """Note the error that a request is answered with; where there is no record, nothing."""
    if _KEY in scope:
        record_of(scope).error_code = code
