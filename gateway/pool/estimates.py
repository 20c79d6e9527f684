"""How long things take, learned from what was measured. Data only, no clock."""

from dataclasses import dataclass

from shared.messages import Finished, Prefilled

# Of a new measurement, in the running means.
_WEIGHT = 0.2
# A prefill of fewer tokens says more about what else an evaluation costs.
_TELLING_TOKENS = 16


@dataclass(slots=True)
class Estimates:
    """Running means over all workers; until something is measured, guesses for a small model.

    Attributes:
        prefill_ms_per_token: milliseconds to evaluate a token of a prompt.
        decode_ms_per_token: milliseconds to generate a token.
        chars_per_token: characters of a prompt to a token of it.
        completion_tokens: tokens of a completion.
        start_ms: milliseconds from the order to replace a worker until the new one is ready.
    """

    prefill_ms_per_token: float = 8.0
    decode_ms_per_token: float = 15.0
    chars_per_token: float = 4.0
    completion_tokens: float = 100.0
    start_ms: float = 40.0

    def learn_prefill(self, n_chars: int, event: Prefilled) -> None:
        """Take note of a prompt of ``n_chars`` characters."""
        n_evaluated = event.prompt_tokens - event.cached_tokens
        if n_evaluated >= _TELLING_TOKENS:
            measured = event.prefill_ms / n_evaluated
            self.prefill_ms_per_token += _WEIGHT * (measured - self.prefill_ms_per_token)
            measured = n_chars / event.prompt_tokens
            self.chars_per_token += _WEIGHT * (measured - self.chars_per_token)

    def learn_completion(self, event: Finished) -> None:
        """Take note of a generation that has ended."""
        if event.completion_tokens > 0:
            measured = event.decode_ms / event.completion_tokens
            self.decode_ms_per_token += _WEIGHT * (measured - self.decode_ms_per_token)
        self.completion_tokens += _WEIGHT * (event.completion_tokens - self.completion_tokens)

    def learn_start(self, start_ms: float) -> None:
        """Take note of a worker that was replaced."""
        self.start_ms += _WEIGHT * (start_ms - self.start_ms)

    def prefill_ms(self, n_chars: int) -> float:
        """How long so many characters of a prompt would take."""
        return n_chars / self.chars_per_token * self.prefill_ms_per_token

    def generation_ms(self, n_chars: int, max_tokens: int | None) -> float:
        """How long a generation takes of which ``n_chars`` of the prompt are to be evaluated."""
        n_tokens = self.completion_tokens
        if max_tokens is not None:
            n_tokens = min(n_tokens, max_tokens)
        return self.prefill_ms(n_chars) + n_tokens * self.decode_ms_per_token
