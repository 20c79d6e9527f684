"""The engine for current GGUF files: llama.cpp's evaluation of many sequences in one KV cache."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.errors import EngineError
from shared.messages import ModelInfo
from shared.model.description import Pooling
from shared.model.inspect import inspect
from worker.engines.base import CacheFullError, Logits, SlotTokens, common_prefix, pieces
from worker.engines.llamacpp_library import Library
from worker.engines.llamacpp_model import load_model
from worker.engines.llamacpp_rows import Rows
from worker.engines.llamacpp_vocabulary import Vocabulary

# From 64 rows on attention has another kernel, and a token's logits depend on what was beside it.
_MOST_ROWS = 63
_CACHE_FULL = 1
# No token id.
_UNKNOWN = -1
# Some tokenizers drop spaces and accents, so that a token may stand for any text.
_LEAST_MAX_TOKEN_BYTES = 1024


class LlamaCppEngine:
    """One model, and one context whose cells all slots share."""

    def __init__(self, config: WorkerConfig) -> None:
        """Check and load ``config.model_path``.

        Raises:
            ModelFileError: the file is not fit; the library has not opened it.
            UsageError: the library is not there, or is not for this machine.
            EngineError: it refused the file all the same.
        """
        file = inspect(Path(config.model_path), config.model_type, "llamacpp")
        n_ctx = config.n_ctx or file.n_ctx_most
        if not 1 <= n_ctx <= file.n_ctx_most:
            raise EngineError(f"the context length {n_ctx} is outside 1..{file.n_ctx_most}")
        library = Library(config.library)
        self._c = library.c
        self._library = library  # C calls its log
        self._pools = file.pooling is not Pooling.NONE
        self.n_slots = config.slots
        # What is pooled has to be evaluated together.
        self.batch_size = max(n_ctx, _MOST_ROWS) if self._pools else _MOST_ROWS
        self._rows_at_once = config.exact_rows or self.batch_size
        self._has_own_cells = bool(config.exact_rows)
        loaded = load_model(library, file, config, n_ctx=n_ctx, n_batch=self.batch_size)
        model, self._context = loaded.model, loaded.context
        self._memory = self._c.llama_get_memory(self._context)  # an encoder has none
        self._window = self._c.llama_model_n_swa(model)
        self._is_recurrent = bool(
            self._c.llama_model_is_recurrent(model) or self._c.llama_model_is_hybrid(model)
        )
        self._vocabulary = vocabulary = Vocabulary(library, model)
        self._n_embd = self._c.llama_model_n_embd_out(model)
        self.info = ModelInfo(
            family=file.family_name,
            n_ctx=n_ctx,
            n_vocab=vocabulary.n_vocab,
            max_token_bytes=max(_LEAST_MAX_TOKEN_BYTES, *map(len, vocabulary.token_bytes)),
            chat_template=file.chat_template,
            tool_template=file.named_templates.get("tool_use"),
            bos_token=vocabulary.bos,
            eos_token=vocabulary.eos,
            fim_tokens=vocabulary.fim_tokens,
            most_rewound=0 if self._is_recurrent else self._window or None,
            n_embd=self._n_embd,
            n_ctx_train=file.n_ctx_train,
            quantisation=file.quantisation,
            n_slots=self.n_slots,
            generates=not self._pools,
        )
        self.eog = vocabulary.eog
        self.special_tokens = vocabulary.special
        # By slot: the tokens in its cache, and its embedding.
        self._caches: list[list[int]] = [[] for _ in range(self.n_slots)]
        self._embeddings: dict[int, NDArray[np.float32]] = {}
        # Slots whose cache an evaluation that failed has taken.
        self._lost: set[int] = set()
        self._threads = 1
        self._rows_in = Rows(self.batch_size)
        # All rows of logits as one array, for as long as they stay where they are.
        self._logits: NDArray[np.float32] = np.empty((0, vocabulary.n_vocab), np.float32)
        self._logits_address = 0

    def tokenize(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        return self._vocabulary.tokenize(prompt, begins=begins)

    def token_bytes(self, token: int) -> bytes:
        return self._vocabulary.token_bytes[token]

    def token_name(self, token: int) -> str:
        return self._vocabulary.name(token)

    def reuse_prefix(self, slot: int, tokens: Sequence[int], *, most: int | None = None) -> int:
        """Keep the longest prefix that a slot has, by a copy that shares the cells."""
        self._lost.discard(slot)
        limit = 0 if self._pools else len(tokens) - 1
        wanted = list(tokens[: max(0, limit)])[:most]
        lengths = [self._usable(each, wanted) for each in range(self.n_slots)]
        n = max(lengths)
        source = slot if lengths[slot] == n else lengths.index(n)
        if source != slot:
            self._cut(slot, 0)
            if n:
                # All of it: where slots have cells of their own, a part ends the process.
                self._c.llama_memory_seq_cp(self._memory, source, slot, -1, -1)
                self._caches[slot] = self._caches[source].copy()
        self._cut(slot, n)
        return n

    def _usable(self, slot: int, wanted: list[int]) -> int:
        """How many of the tokens that are wanted a slot's cache has, and can be cut down to."""
        cache = self._caches[slot]
        n = common_prefix(cache, wanted)
        if n == len(cache):
            return n
        if self._is_recurrent:
            return 0
        # A sliding window has dropped what it will not see again; to go back would need it.
        first = self._c.llama_memory_seq_pos_min(self._memory, slot) if n and self._window else 0
        return n if first <= max(0, n - self._window) else 0

    def _cut(self, slot: int, n: int) -> None:
        cache = self._caches[slot]
        if n == len(cache):
            return
        if self._memory and not self._c.llama_memory_seq_rm(self._memory, slot, n, -1):
            raise EngineError("the KV cache cannot be cut")
        del cache[n:]

    def state_bytes(self, slot: int) -> int:
        # Where slots have cells of their own, the library copies them with its next evaluation, and
        # would copy over what a slot has got back in the meantime.
        if not self._memory or self._pools or self._has_own_cells:
            return 0
        size: int = self._c.llama_state_seq_get_size(self._context, slot)
        return size

    def save(self, slot: int, into: memoryview) -> bool:
        address, size = ctypes.addressof(ctypes.c_char.from_buffer(into)), len(into)
        done: int = self._c.llama_state_seq_get_data(self._context, address, size, slot)
        return done == size

    def restore(self, slot: int, tokens: Sequence[int], state: memoryview) -> bool:
        """Take a state over; tokens of it that are not known match none."""
        self._cut(slot, 0)
        address, size = ctypes.addressof(ctypes.c_char.from_buffer(state)), len(state)
        if self._c.llama_state_seq_set_data(self._context, address, size, slot) != size:
            self._library.reason()  # it says that there is no room
            return False
        n = self._c.llama_memory_seq_pos_max(self._memory, slot) + 1
        self._caches[slot] = [*tokens[:n], *[_UNKNOWN] * (n - len(tokens))]
        return True

    def chunk_size(self, slot: int) -> int:
        return self.batch_size

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        """Evaluate in one batch, or in as few as are exact; the logits are changed by the next."""
        if not self._rows_at_once < sum(len(part.tokens) for part in batch) <= self.batch_size:
            return self._evaluate(batch, threads)
        lengths, rows = self._lengths(batch), dict[int, Logits | None]()
        try:
            for piece in pieces(batch, self._rows_at_once):
                for part, row in zip(piece, self._evaluate(piece, threads), strict=True):
                    rows[part.slot] = None if row is None else row.copy()
        except EngineError:
            self._restore(lengths)
            raise
        return [rows[part.slot] for part in batch]

    def _evaluate(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        self._fill(batch)
        if threads != self._threads:
            self._c.llama_set_n_threads(self._context, threads, threads)
            self._threads = threads
        # All rows are outputs then, so only where one is wanted.
        embeds = not self._pools and any(part.embeds and part.wants_logits for part in batch)
        if embeds:
            self._c.llama_set_embeddings(self._context, True)
        status = self._c.llama_decode(self._context, self._rows_in.batch)
        if embeds:
            self._c.llama_set_embeddings(self._context, False)
        if status == _CACHE_FULL:
            raise CacheFullError("the KV cache of the worker is full")
        if status:
            self._restore(self._lengths(batch))
            raise EngineError(f"llama.cpp failed to evaluate the tokens: {self._library.reason()}")
        return self._rows(batch, embeds)

    def _fill(self, batch: Sequence[SlotTokens]) -> None:
        """Lay the tokens out for the library, which does not check all that it has to."""
        n_vocab, n_ctx, pools = self.info.n_vocab, self.info.n_ctx, self._pools
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[bool] = []
        for part in batch:
            slot, at, n = part.slot, len(self._caches[part.slot]), len(part.tokens)
            if not n or at + n > n_ctx or slot in self._lost:
                raise EngineError(f"{n} tokens after {at} do not fit the context")
            tokens += part.tokens
            positions += range(at, at + n)
            slots += [slot] * n
            outputs += [pools] * (n - 1)
            outputs.append(pools or part.wants_logits)
        if not 1 <= len(tokens) <= self.batch_size:
            raise EngineError("the batch is empty, or too large")
        if min(tokens) < 0 or max(tokens) >= n_vocab:
            raise EngineError("a token id is outside the vocabulary")
        self._rows_in.fill(tokens, positions, slots, outputs)

    def _rows(self, batch: Sequence[SlotTokens], are_all_outputs: bool) -> list[Logits | None]:
        # Of each part the number of its output, and how many there are.
        outputs: list[int | None] = []
        n_rows = n_outputs = 0
        for part in batch:
            self._caches[part.slot] += part.tokens
            n_rows += len(part.tokens)
            n_outputs = n_rows if are_all_outputs else n_outputs + part.wants_logits
            outputs.append(n_outputs - 1 if part.wants_logits and not self._pools else None)
            if part.embeds and part.wants_logits:
                self._embeddings[part.slot] = self._embedding(part.slot, n_rows - 1)
        if outputs.count(None) == len(outputs):
            return [None] * len(outputs)
        logits = self._logits_of(n_outputs)
        return [None if output is None else logits[output] for output in outputs]

    def _logits_of(self, n: int) -> NDArray[np.float32]:
        """The first rows of logits: the library has them in the order of the outputs."""
        address = self._c.llama_get_logits(self._context)
        if address != self._logits_address or n > len(self._logits):
            self._logits = _view(address, n * self.info.n_vocab).reshape(n, -1)
            self._logits_address = address
        return self._logits

    def _restore(self, lengths: dict[int, int]) -> None:
        """Take back what an evaluation that failed may have put into the caches of slots."""
        for slot, n in lengths.items():
            del self._caches[slot][n:]
            if self._memory and not self._c.llama_memory_seq_rm(self._memory, slot, n, -1):
                self._c.llama_memory_seq_rm(self._memory, slot, -1, -1)
                self._caches[slot].clear()
                self._lost.add(slot)

    def _lengths(self, batch: Sequence[SlotTokens]) -> dict[int, int]:
        return {part.slot: len(self._caches[part.slot]) for part in batch}

    def embedding(self, slot: int) -> NDArray[np.float32]:
        return self._embeddings.pop(slot)

    def _embedding(self, slot: int, row: int) -> NDArray[np.float32]:
        if self._pools:
            address = self._c.llama_get_embeddings_seq(self._context, slot)
        else:
            address = self._c.llama_get_embeddings_ith(self._context, row)
        return _view(address, self._n_embd).copy()


def _view(address: int | None, n: int) -> NDArray[np.float32]:
    if not address:
        raise EngineError("llama.cpp has no result where there should be one")
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))
