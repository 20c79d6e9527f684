"""One generation in a worker: what is still to be evaluated, and what has come of it."""

import math
import time

import numpy as np
from numpy.typing import NDArray

from shared.logprobs import TokenLogprobs
from shared.messages import Delta, Generate, Prefilled
from worker.engines.base import Engine
from worker.grammar.matcher import Matcher
from worker.sampling.logprobs import Logprobs
from worker.sampling.sampler import Sampler
from worker.text.detokenizer import Detokenizer
from worker.text.stop import StopMatcher

_FloatArray = NDArray[np.float32]


class Sequence:
    """The state of a running generation."""

    def __init__(
        self,
        engine: Engine,
        request: Generate,
        prompt: list[int],
        *,
        cached_tokens: int,
        restored_tokens: int = 0,
        budget: int,
        matcher: Matcher | None = None,
    ) -> None:
        """Begin after admission; ``prompt`` and ``budget`` together fit the context."""
        self.request = request
        self.prompt_tokens = len(prompt)
        self.cached_tokens = cached_tokens
        self.restored_tokens = restored_tokens
        #: tokens that the engine has yet to evaluate
        self.pending = prompt[cached_tokens:]
        #: the prompt has not been evaluated yet
        self.is_prefilling = True
        self.generated: list[int] = []
        #: the most tokens to generate
        self.budget = budget
        self._engine = engine
        self.arrived_s = self._started = time.monotonic()
        self._sampler = Sampler(request.sampling, prompt)
        self._matcher = matcher
        self._detokenizer = Detokenizer()
        self._stop = StopMatcher(request.stop)
        self._ends = engine.eog.union(request.stop_ids)
        # What is barred while nothing may end the generation, and while the model itself may not.
        self._all_ends = sorted(self._ends)
        self._own_ends = sorted(engine.eog.difference(request.stop_ids))
        self._logprobs = None if request.logprobs is None else Logprobs(engine, request.logprobs)
        self._prompt_logprobs: list[TokenLogprobs] = []
        self._prompt = prompt
        self._prompt_left = list(reversed(prompt)) if self.looks_at_prompt else []
        # Of tokens that no `Delta` has told of yet: how many, and where in the text each begins.
        self._unreported = 0
        self._entries: list[tuple[int, TokenLogprobs]] = []
        self._n_letters = self._n_letters_reported = 0

    @property
    def completion_tokens(self) -> int:
        """How many tokens have been generated."""
        return len(self.generated)

    @property
    def n_tokens(self) -> int:
        """How many tokens there are in all, evaluated or not."""
        return self.prompt_tokens + len(self.generated)

    @property
    def looks_at_prompt(self) -> bool:
        """Whether the logits of each token of the prompt are wanted, so that none is cached."""
        return self.request.echoes_from is not None and self.request.logprobs is not None

    @property
    def wants_logits(self) -> bool:
        """Whether the logits after the chunk that was taken last are wanted."""
        return not self.pending or bool(self._prompt_left)

    def take_chunk(self, size: int) -> list[int]:
        """Remove and return the next tokens to evaluate, at most ``size``."""
        if self._prompt_left:
            size = 1
            self._note_prompt(None)
        chunk, self.pending = self.pending[:size], self.pending[size:]
        return chunk

    def rewind(self) -> None:
        """Evaluate anew all that is known, since the cache has been cleared."""
        self.pending = [*self._prompt, *self.generated]
        self.cached_tokens = self.restored_tokens = 0
        if self.is_prefilling and self.looks_at_prompt:
            self._prompt_left = list(reversed(self._prompt))
            self._prompt_logprobs.clear()

    def note_prompt(self, logits: _FloatArray | None) -> None:
        """Take in the logits behind a part of the prompt, if they were wanted."""
        if self._prompt_left:
            self._note_prompt(logits)

    def _note_prompt(self, logits: _FloatArray | None) -> None:
        """Note the next token of the prompt; without logits only if it is the first."""
        assert self._logprobs is not None
        if logits is not None:
            self._logprobs.look(logits)
            self._prompt_logprobs.append(self._logprobs.of(self._prompt_left.pop()))
        elif not self._prompt_logprobs:
            self._prompt_logprobs.append(self._logprobs.unlooked(self._prompt_left.pop()))

    def prefilled(self) -> Prefilled:
        """What there is to say when the prompt has been evaluated."""
        self.is_prefilling = False
        return Prefilled(
            self.request.request_id,
            self.prompt_tokens,
            self.cached_tokens,
            self.lap_ms(),
            tuple(self._prompt_logprobs[self.request.echoes_from or 0 :]),
            self.restored_tokens,
        )

    def draw(self, logits: _FloatArray) -> int | None:
        """The next token, or None if it ends the generation; the logits are changed.

        Raises:
            EngineError: the logits are no numbers.
            GrammarError: no token is allowed.
        """
        if self._logprobs is not None:
            self._logprobs.look(logits)
        allowed = None if self._matcher is None else self._matcher.allowed()
        if self._is_too_short:
            logits[self._all_ends] = -np.inf
        elif self.request.ignores_eog:
            logits[self._own_ends] = -np.inf
        token = self._sampler.sample(logits, allowed)
        return None if token in self._ends else token

    @property
    def _is_too_short(self) -> bool:
        return self.completion_tokens < self.request.min_tokens

    def append(self, token: int) -> tuple[str, str | None]:
        """Take a token that was drawn.

        Returns:
            The text that may be emitted now, maybe none, and the finish reason if this was the
            last token.

        Raises:
            GrammarError: what may follow it takes too much to find out.
        """
        text = self._detokenizer.push(self._engine.token_bytes(token))
        if self._logprobs is not None:
            self._entries.append((self._n_letters, self._logprobs.of(token)))
            self._n_letters += len(text)
        is_too_short = self._is_too_short
        self.generated.append(token)
        self._unreported += 1
        if not is_too_short:
            text, stopped = self._stop.push(text)
            if stopped:
                self._cut(text)
                return text, "stop"
        if self._matcher is not None:
            self._matcher.accept(token)
            if self._matcher.is_complete:
                return text + self.end(), "stop"
        if self.completion_tokens >= self.budget:
            tail, stopped = self._end()
            return text + tail, "stop" if stopped else "length"
        self.pending = [token]
        return text, None

    def end(self) -> str:
        """Release what was held back, since no more tokens come."""
        return self._end()[0]

    def _end(self) -> tuple[str, bool]:
        """The same, and whether a stop string showed up in it."""
        text, stopped = self._stop.push(self._detokenizer.flush())
        if stopped:
            self._cut(text)
            return text, True
        return text + self._stop.flush(), False

    def _cut(self, text: str) -> None:
        """Forget the tokens behind ``text``, which is the last that will be emitted."""
        n_letters = self._n_letters_reported + len(text)
        self._entries = [entry for entry in self._entries if entry[0] < n_letters]

    def delta(self, text: str, *, is_last: bool = False) -> Delta:
        """The text as an event, with what there is to say of its tokens; in the end of all."""
        told: tuple[TokenLogprobs, ...] = ()
        if self._logprobs is not None:
            self._n_letters_reported += len(text)
            end = math.inf if is_last else self._n_letters_reported
            told = tuple([entry for begin, entry in self._entries if begin < end])
            del self._entries[: len(told)]
        delta = Delta(self.request.request_id, text, self._unreported, told)
        self._unreported = 0
        return delta

    @property
    def has_unreported_logprobs(self) -> bool:
        """Whether a `Delta` without text has something to say."""
        return bool(self._entries)

    def lap_ms(self) -> float:
        """Milliseconds since the last call, or since the start."""
        now = time.monotonic()
        elapsed, self._started = now - self._started, now
        return elapsed * 1000


def text_of(engine: Engine, ids: tuple[int, ...]) -> str:
    """The text of token ids, control tokens by their names."""
    pieces = [engine.token_bytes(token) or engine.token_name(token).encode() for token in ids]
    return b"".join(pieces).decode("utf-8", "replace")
