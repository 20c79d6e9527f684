"""Sampling parameters, as the worker's sampler takes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn from the logits.

    The defaults are the ones that local servers agree on (llama-server, llama-cpp-python): small
    models read better with them than with OpenAI's bare ``temperature=1``.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token (greedy). Range 0..2.
        top_p: keep the smallest set of tokens whose probabilities add up to this. Range (0, 1].
        top_k: keep this many of the most likely tokens; 0 keeps all.
        min_p: drop tokens less likely than this fraction of the most likely one. Range [0, 1].
        presence_penalty: subtracted from the logit of each token generated so far. Range -2..2.
        frequency_penalty: subtracted once for each time a token was generated. Range -2..2.
        repetition_penalty: divides positive logits, and multiplies negative ones, of every token
            in the prompt or the completion (CTRL, Keskar et al. 2019). 1 is off.
        seed: same seed, same text; None draws a fresh one.
        logit_bias: token ids, and what is added to the logit of each. Range -100..100.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
