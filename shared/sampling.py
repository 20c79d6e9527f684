"""Sampling parameters, as the worker's sampler takes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn from the logits.

    The defaults are the ones that local servers agree on (llama-server, llama-cpp-python): small
    models read better with them than with OpenAI's bare ``temperature=1``.
    """

    temperature: float = 0.8  #: 0..2, divides the logits; 0 takes the most likely token (greedy)
    top_p: float = 0.95  #: (0, 1], keeps the smallest set of tokens that is this likely together
    top_k: int = 40  #: keeps this many of the most likely tokens; 0 keeps all
    min_p: float = 0.05  #: 0..1, drops tokens less likely than this part of the most likely one
    presence_penalty: float = 0.0  #: -2..2, less on the logit of each token generated so far
    frequency_penalty: float = 0.0  #: -2..2, less for each time that it was generated
    #: Divides positive logits, and multiplies negative ones, of every token in the prompt or the
    #: completion (CTRL, Keskar et al. 2019). 1 is off.
    repetition_penalty: float = 1.0
    seed: int | None = None  #: same seed, same text; None draws a fresh one
    logit_bias: tuple[tuple[int, float], ...] = ()  #: ids, and what (-100..100) is added to each
