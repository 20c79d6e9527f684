"""What the decode loop asks of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.messages import ModelInfo

Logits: TypeAlias = NDArray[np.float32]
"""Shape ``(n_vocab,)``; may be changed in place, and is valid until the next `Engine.forward`."""


@dataclass(frozen=True, slots=True)
class SlotTokens:
    """Tokens to append to what a slot's KV cache holds."""

    slot: int
    #: 1..`Engine.chunk_size` ids, each within the vocabulary
    tokens: Sequence[int]
    #: whether the logits after the last of them are wanted
    wants_logits: bool = True
    #: whether the embedding of the last of them may be asked for
    embeds: bool = False


class CacheFullError(EngineError):
    """The slots together have no room for the tokens of a batch; nothing has changed."""


def common_prefix(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two lists have in common from their start."""
    n, step = 0, min(len(some), len(others))
    limit = step
    # By halves, since two lists are compared several times faster than their elements in a loop.
    while step:
        if some[n : n + step] == others[n : n + step]:
            n += step
            step = min(step, limit - n)
        else:
            step //= 2
    return n


def pieces(batch: Sequence[SlotTokens], most: int) -> list[list[SlotTokens]]:
    """Batches of at most so many rows; of a slot only the last has what is wanted of it."""
    found: list[list[SlotTokens]] = [[]]
    room = most
    for part in batch:
        tokens = part.tokens
        while tokens:
            if not room:
                found.append([])
                room = most
            chunk, tokens = tokens[:room], tokens[room:]
            wants = part.wants_logits and not tokens
            found[-1].append(SlotTokens(part.slot, chunk, wants, part.embeds))
            room -= len(chunk)
    return found


class Engine(Protocol):
    """A loaded model with the KV caches of its slots."""

    info: ModelInfo
    #: ids that end a generation
    eog: frozenset[int]
    #: texts and ids of the special tokens, which plain text never yields
    special_tokens: dict[str, int]
    n_slots: int
    #: the most tokens of one `forward`, all slots together
    batch_size: int

    def tokenize(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        """The ids of a prompt: plain text and texts of special tokens by turns.

        The token that begins a sequence is put in front if it ``begins`` and there is one.
        """

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; empty for control tokens."""

    def token_name(self, token: int) -> str:
        """What a token is called: its text, control tokens included; not empty."""

    def reuse_prefix(self, slot: int, tokens: Sequence[int], *, most: int | None = None) -> int:
        """Cut the slot's cache down to what it shares with ``tokens``; may copy from another slot.

        At least the last of ``tokens`` is left to evaluate, since that yields the logits, and no
        more than ``most`` of them are kept.

        Returns:
            How many of ``tokens`` need no evaluation.
        """

    def state_bytes(self, slot: int) -> int:
        """The size of what `save` would write; 0 of an engine that cannot save."""

    def save(self, slot: int, into: memoryview) -> bool:
        """Write the state of the slot's cache, `state_bytes` of it; False if it cannot be saved."""

    def restore(self, slot: int, tokens: Sequence[int], state: memoryview) -> bool:
        """Put a state that `save` has written, here or in another process, into the slot.

        Args:
            slot: of which nothing else remains.
            tokens: the first of those that were in the cache; what stood behind them is unknown.
            state: the bytes, all of them.

        Returns:
            Whether there was room; if not, the slot is empty.
        """

    def chunk_size(self, slot: int) -> int:
        """The most tokens that the next `forward` may take for a slot.

        An engine whose logits depend on how the tokens before were cut into chunks must not let
        it show: the same tokens yield the same logits, whatever part of them was in the cache.
        """

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        """Evaluate the tokens of some slots, each of which occurs once.

        Returns:
            For each slot the logits after its last token, None where they are not wanted.

        Raises:
            CacheFullError: other slots have to be cleared first.
            EngineError: nothing has changed; or, of a batch of one slot, the evaluation failed and
                the slot's cache is empty.
        """

    def embedding(self, slot: int) -> NDArray[np.float32]:
        """The hidden state of the last token of a slot in the last `forward`, behind the last norm.

        Returns:
            Shape ``(info.n_embd,)``, valid until the next call of `forward`; only of an
            engine whose ``info.n_embd`` is not 0.
        """


class SavesNothing:
    """For engines whose library has no way to save a state."""

    def state_bytes(self, slot: int) -> int:
        return 0

    def save(self, slot: int, into: memoryview) -> bool:
        return False

    def restore(self, slot: int, tokens: Sequence[int], state: memoryview) -> bool:
        return False
