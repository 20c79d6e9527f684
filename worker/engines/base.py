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
        tokens: 1..`Engine.chunk_size` ids, each within the vocabulary.
    """

    slot: int
    tokens: Sequence[int]


class Engine(Protocol):
    """A loaded model with the KV caches of its slots.

    Attributes:
        info: the model's description.
        eog: ids that end a generation.
        special_tokens: texts and ids of the special tokens, which plain text never yields.
        forks_after_evaluation: whether a process that has evaluated something may be forked: no
            thread of the engine's outlives an evaluation.
    """

    info: ModelInfo
    eog: frozenset[int]
    special_tokens: dict[str, int]
    forks_after_evaluation: bool

    def tokenize(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        """Turn a prompt into ids: plain text and texts of special tokens by turns.

        Args:
            prompt: the parts.
            begins: whether the token that begins a sequence is put in front, if there is one.
        """

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; empty for control tokens."""

    def token_name(self, token: int) -> str:
        """What a token is called: its text, control tokens included; not empty."""

    def reuse_prefix(self, slot: int, tokens: Sequence[int]) -> int:
        """Cut the slot's cache down to what it shares with ``tokens``.

        At least the last of ``tokens`` is left to evaluate, since that yields the logits.

        Returns:
            How many of ``tokens`` need no evaluation.
        """

    def chunk_size(self, slot: int) -> int:
        """The most tokens that the next `forward` may take for a slot.

        An engine whose logits depend on how the tokens before were cut into chunks must not let
        it show: the same tokens yield the same logits, whatever part of them was in the cache.
        """

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[NDArray[np.float32]]:
        """Evaluate the tokens of each slot.

        Returns:
            For each slot the logits after its last token, shape ``(n_vocab,)``. They may be
            changed in place, and are valid until the next call.

        Raises:
            EngineError: the tokens cannot be evaluated, and nothing has changed; or their
                evaluation failed, and the slots' caches are empty.
        """

    def embedding(self) -> NDArray[np.float32]:
        """The hidden state of the last token of the last `forward`, behind the last norm.

        Returns:
            Shape ``(info.n_embd,)``, valid until the next `forward`; only of an engine whose
            ``info.n_embd`` is not 0.
        """
