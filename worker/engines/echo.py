"""A deterministic engine without a model: it answers with the prompt, byte by byte.

It runs through the very same loop, sampler and pipes as a real engine, so it serves tests, load
tests of the gateway, and work on clients (``MODEL_TYPE=echo``).
"""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.messages import ModelInfo
from worker.engines.base import Logits, SavesNothing, SlotTokens, common_prefix

_EOG = 256
_DEFAULT_N_CTX = 8192
_CHUNK = 512
_N_EMBD = 16
# Nobody has to be told of tools to repeat a text with <tool_call> in it.
_TEMPLATE = "{# tools: <tool_call> #}{{ messages[-1]['content'] }}"


class EchoEngine(SavesNothing):
    """Token ids 0..255 are bytes; 256 ends the generation."""

    batch_size = _CHUNK

    def __init__(self, config: WorkerConfig) -> None:
        """Make the engine; ``config.echo_delay_ms`` is what each evaluation takes."""
        self.n_slots = config.slots
        self.info = ModelInfo(
            family="echo",
            n_ctx=config.n_ctx or _DEFAULT_N_CTX,
            n_vocab=257,
            max_token_bytes=1,
            chat_template=_TEMPLATE,
            n_embd=_N_EMBD,
            n_ctx_train=config.n_ctx or _DEFAULT_N_CTX,
            n_slots=config.slots,
        )
        self.eog = frozenset({_EOG})
        self.special_tokens: dict[str, int] = {}
        self._delay_s = config.echo_delay_ms / 1000
        # By slot: what is to be echoed, and what the cache holds.
        self._prompts: list[list[int]] = [[] for _ in range(self.n_slots)]
        self._caches: list[list[int]] = [[] for _ in range(self.n_slots)]

    def tokenize(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        """One id for each byte of the text in UTF-8."""
        return list("".join(prompt).encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes((token,)) if token < _EOG else b""

    def token_name(self, token: int) -> str:
        """The letter that the byte is, alone; of the last token, a name."""
        return self.token_bytes(token).decode("latin-1") or "<end>"

    def reuse_prefix(self, slot: int, tokens: Sequence[int], *, most: int | None = None) -> int:
        """Keep what a cache shares with ``tokens``, the slot's own or one that shares more."""
        shared = [common_prefix(cache, list(tokens[:-1])[:most]) for cache in self._caches]
        n_cached = max(shared)
        if n_cached > shared[slot]:
            self._caches[slot] = self._caches[shared.index(n_cached)][:n_cached]
        del self._caches[slot][n_cached:]
        self._prompts[slot] = list(tokens)
        return n_cached

    def chunk_size(self, slot: int) -> int:
        """Any number would do."""
        return _CHUNK

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        """Give the next byte of each prompt a logit that nothing else can reach."""
        if self._delay_s:
            time.sleep(self._delay_s)
        return [self._forward(part) for part in batch]

    def _forward(self, part: SlotTokens) -> Logits | None:
        cache, prompt = self._caches[part.slot], self._prompts[part.slot]
        cache.extend(part.tokens)
        if not part.wants_logits:
            return None
        n_generated = len(cache) - len(prompt)
        logits = np.full(self.info.n_vocab, -1e9, dtype=np.float32)
        logits[prompt[n_generated] if 0 <= n_generated < len(prompt) else _EOG] = 0
        return logits

    def embedding(self, slot: int) -> NDArray[np.float32]:
        """How often each of the `_N_EMBD` kinds of bytes is in the cache."""
        kinds = np.asarray(self._caches[slot], np.int64) % _N_EMBD
        return np.bincount(kinds, minlength=_N_EMBD).astype(np.float32)
