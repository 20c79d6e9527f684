"""What the decode loop asks of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.messages import ModelInfo


@dataclass(frozen=True, slots=True)
class SlotTokens:
    """Tokens to append to what a slot's KV cache holds.

    Attributes:
        slot: which sequence of the engine, 0-based.
        tokens: 1..`Engine.max_batch` ids, each within the vocabulary.
    """

    slot: int
    tokens: Sequence[int]


class Engine(Protocol):
    """A loaded model with the KV caches of its slots.

    Attributes:
        info: the model's description.
        eog: ids that end a generation.
        max_batch: the most tokens that one `forward` takes for a slot.
    """

    info: ModelInfo
    eog: frozenset[int]
    max_batch: int

    def tokenize(self, text: str) -> list[int]:
        """Turn a rendered prompt into ids, special tokens in it included."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; empty for control tokens."""

    def reuse_prefix(self, slot: int, tokens: Sequence[int]) -> int:
        """Cut the slot's cache down to what it shares with ``tokens``.

        At least the last of ``tokens`` is left to evaluate, since that yields the logits.

        Returns:
            How many of ``tokens`` need no evaluation.
        """

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[NDArray[np.float32]]:
        """Evaluate the tokens of each slot.

        Returns:
            For each slot the logits after its last token, shape ``(n_vocab,)``. They may be
            changed in place, and are valid until the next call.

        Raises:
            EngineError: the evaluation failed; the slots' caches are empty afterwards.
        """
