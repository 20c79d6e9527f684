"""How long things take, learned from what was measured. Data only, no clock."""

from dataclasses import dataclass

from shared.messages import Finished, Prefilled

# Of a new measurement, in the running means.
_WEIGHT = 0.2
# The longest chunk of a prompt that is evaluated in one step, in tokens.
_CHUNK = 32
# A step that takes so many times as long as the slowest so far will never end.
_STALL_TIMES = 20.0
_LEAST_STALL_S = 5.0
# Before anything was measured: the first evaluation may have to read the model from a disk.
_FIRST_STALL_S = 120.0
# A prefill of fewer tokens says more about what else an evaluation costs.
_TELLING_TOKENS = 16


@dataclass(slots=True)
class Estimates:
    """Running means over all workers; until something is measured, guesses for a small model."""

    prefill_ms_per_token: float = 8.0
    decode_ms_per_token: float = 15.0
    completion_tokens: float = 100.0
    #: of the tokens of a prompt, those that were in a KV cache
    cached_share: float = 0.0
    #: the most milliseconds per token of a prompt so far; 0 before the first
    slowest_prefill_ms: float = 0.0
    slowest_decode_ms: float = 0.0

    def learn_prefill(self, event: Prefilled) -> None:
        """Take note of a prompt."""
        n_evaluated = event.prompt_tokens - event.cached_tokens
        share = event.cached_tokens / event.prompt_tokens
        self.cached_share += _WEIGHT * (share - self.cached_share)
        if n_evaluated >= _TELLING_TOKENS:
            measured = event.prefill_ms / n_evaluated
            self.prefill_ms_per_token += _WEIGHT * (measured - self.prefill_ms_per_token)
            self.slowest_prefill_ms = max(measured, self.slowest_prefill_ms)

    def learn_completion(self, event: Finished) -> None:
        """Take note of a generation that has ended."""
        if event.completion_tokens > 0:
            measured = event.decode_ms / event.completion_tokens
            self.decode_ms_per_token += _WEIGHT * (measured - self.decode_ms_per_token)
            self.slowest_decode_ms = max(measured, self.slowest_decode_ms)
        self.completion_tokens += _WEIGHT * (event.completion_tokens - self.completion_tokens)

    @property
    def stall_s(self) -> float:
        """Seconds without progress after which a worker will never make any.

        That is one with as many threads as those had that were measured.
        """
        # A token of a prompt never takes longer than one that is evaluated alone.
        per_token_ms = self.slowest_prefill_ms or self.slowest_decode_ms
        if not per_token_ms:
            return _FIRST_STALL_S
        step_ms = max(_CHUNK * per_token_ms, self.slowest_decode_ms)
        return max(_LEAST_STALL_S, _STALL_TIMES * step_ms / 1000)

    def prefill_ms(self, n_tokens: float) -> float:
        """How long so many tokens of a prompt would take."""
        return n_tokens * self.prefill_ms_per_token

    def generation_ms(self, n_prompt: float, max_tokens: int | None) -> float:
        """How long a generation takes of which ``n_prompt`` tokens are to be evaluated."""
        n_tokens = self.completion_tokens
        if max_tokens is not None:
            n_tokens = min(n_tokens, max_tokens)
        return self.prefill_ms(n_prompt) + n_tokens * self.decode_ms_per_token
