"""One generation in a worker: what is still to be evaluated, and what has come of it."""

import time

from shared.messages import Generate
from worker.detokenizer import Detokenizer
from worker.sampler import Sampler
from worker.stop import StopMatcher


class Sequence:
    """The state of a running generation.

    Attributes:
        request: what was asked for.
        prompt_tokens: how many tokens the prompt has.
        cached_tokens: how many of them needed no evaluation.
        pending: tokens that the engine has yet to evaluate.
        completion_tokens: how many tokens have been generated.
        unreported_tokens: how many of those no `Delta` has told of yet.
    """

    def __init__(
        self, request: Generate, prompt: list[int], cached_tokens: int, budget: int
    ) -> None:
        """Begin after admission.

        Args:
            request: what was asked for.
            prompt: the prompt's token ids.
            cached_tokens: how many of them the engine's cache holds.
            budget: the most tokens to generate; prompt and budget together fit the context.
        """
        self.request = request
        self.prompt_tokens = len(prompt)
        self.cached_tokens = cached_tokens
        self.pending = prompt[cached_tokens:]
        self.completion_tokens = 0
        self.unreported_tokens = 0
        self._budget = budget
        self._started = time.monotonic()
        self.sampler = Sampler(request.sampling, prompt)
        self._detokenizer = Detokenizer()
        self._stop = StopMatcher(request.stop)

    def take_chunk(self, size: int) -> list[int]:
        """Remove and return the next tokens to evaluate, at most ``size``."""
        chunk, self.pending = self.pending[:size], self.pending[size:]
        return chunk

    def append(self, token: int, token_bytes: bytes) -> tuple[str, str | None]:
        """Take a generated token.

        Returns:
            The text that may be emitted now, maybe none, and the finish reason if this was the
            last token.
        """
        self.completion_tokens += 1
        self.unreported_tokens += 1
        text, stopped = self._stop.push(self._detokenizer.push(token_bytes))
        if stopped:
            return text, "stop"
        if self.completion_tokens >= self._budget:
            tail, reason = self.end()
            return text + tail, "stop" if reason == "stop" else "length"
        self.pending = [token]
        return text, None

    def end(self) -> tuple[str, str | None]:
        """Release what was held back, since no more tokens come.

        Returns:
            That text, and ``stop`` if a stop string showed up in it, else None.
        """
        text, stopped = self._stop.push(self._detokenizer.flush())
        return (text, "stop") if stopped else (text + self._stop.flush(), None)

    def lap_ms(self) -> float:
        """Milliseconds since the last call, or since the start."""
        now = time.monotonic()
        elapsed, self._started = now - self._started, now
        return elapsed * 1000
