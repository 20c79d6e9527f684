"""The engine for LLaMA-family GGUF files: the C library of ctransformers 0.2.27.

The library's own generation loop, tokenizer and sampler are not used (they are unsafe or wrong in
ways that cannot be mended from outside); only its evaluation is, through its ctypes handle, with
every argument checked first, since the C code aborts the process on most bad ones.
"""

import ctypes
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ctransformers.llm import LLM, Config
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.errors import EngineError
from shared.gguf_llama import check_llama
from shared.gguf_reader import read_gguf
from shared.messages import ModelInfo
from worker.engines.base import SlotTokens
from worker.tokenizer import Vocabulary, build_tokenizer

# ggml's dot product of 16-bit floats adds up blocks of this many elements apart from what is left
# over. In attention its length is that of the cache after the chunk, so the rounding of a token's
# result depends on where its chunk ends, and 8-bit activations blow that up to tenths of a logit.
_BLOCK = 32


class CTransformersEngine:
    """One model with one slot."""

    def __init__(self, config: WorkerConfig) -> None:
        """Check and load ``config.model_path``.

        Raises:
            ModelFileError: the file is not fit for the library; it was not opened by it.
            EngineError: the library refused it all the same.
        """
        file = read_gguf(Path(config.model_path))
        check_llama(file)
        n_ctx = config.n_ctx or file.n_ctx_train
        if not 1 <= n_ctx <= file.n_ctx_train:
            raise EngineError(
                f"the context length {n_ctx} is outside 1..{file.n_ctx_train},"
                " which is what the model was trained for"
            )
        try:
            self._llm = LLM(
                config.model_path,
                "gguf",
                config=Config(context_length=n_ctx, threads=1, mmap=True),
                lib=library_variant(),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"ctransformers could not load the model: {error}") from error
        vocabulary = Vocabulary.from_gguf(file)
        self._vocabulary = vocabulary
        self._tokenizer = build_tokenizer(file, vocabulary, self._library_tokenize)
        self.info = ModelInfo(
            family=file.architecture,
            n_ctx=n_ctx,
            n_vocab=len(vocabulary.token_bytes),
            max_token_bytes=vocabulary.max_token_bytes,
            chat_template=file.chat_template,
            bos_token=vocabulary.text(vocabulary.bos),
            eos_token=vocabulary.text(vocabulary.eos),
        )
        self.eog = vocabulary.eog
        self._cache: list[int] = []
        self._buffer = (ctypes.c_int * _BLOCK)()

    def tokenize(self, text: str) -> list[int]:
        """Turn a rendered prompt into ids, special tokens in it included."""
        return self._tokenizer.encode(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; empty for control tokens."""
        return self._vocabulary.token_bytes[token]

    def reuse_prefix(self, slot: int, tokens: Sequence[int]) -> int:
        """Cut the cache down to what it shares with ``tokens``; rewinding is exact for LLaMA."""
        cache, limit = self._cache, min(len(self._cache), len(tokens) - 1)
        n_cached = 0
        while n_cached < limit and cache[n_cached] == tokens[n_cached]:
            n_cached += 1
        del cache[n_cached:]
        return n_cached

    def chunk_size(self, slot: int) -> int:
        """Up to, and not including, the token that completes a block of the cache.

        A token evaluated in such a chunk meets as many whole blocks as it does when it is
        evaluated alone, so the logits are the same to the bit. 32 tokens is also where prefill
        is within 3 % of its best speed, while larger chunks take more memory: the library
        computes the logits of all their tokens.
        """
        return _BLOCK - (len(self._cache) + 1) % _BLOCK

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[NDArray[np.float32]]:
        """Evaluate the tokens behind what the cache holds; the logits are a view, not a copy."""
        (slot,) = batch
        tokens, n_past = slot.tokens, len(self._cache)
        n_tokens = len(tokens)
        # For no tokens the library would do nothing, and report success.
        if not 1 <= n_tokens <= _BLOCK or n_past + n_tokens > self.info.n_ctx:
            raise EngineError(f"{n_tokens} tokens after {n_past} do not fit the context")
        if min(tokens) < 0 or max(tokens) >= self.info.n_vocab:
            raise EngineError("a token id is outside the vocabulary")
        ids: list[ctypes.c_int | int] = list(tokens)
        self._buffer[:n_tokens] = ids
        if not self._llm.ctransformers_llm_batch_eval(
            self._buffer, n_tokens, n_past, _BLOCK, max(1, threads)
        ):
            self._cache.clear()
            raise EngineError("the engine failed to evaluate the tokens")
        self._cache.extend(tokens)
        pointer = self._llm.ctransformers_llm_logits_data()
        return [np.ctypeslib.as_array(pointer, shape=(self.info.n_vocab,))]

    def _library_tokenize(self, text: bytes) -> list[int]:
        # At most one id for each byte, and the space that SentencePiece puts in front; the
        # library's own wrapper makes this buffer too small and corrupts the heap.
        ids = (ctypes.c_int * (len(text) + 8))()
        n = self._llm.ctransformers_llm_tokenize(text, False, ids)
        return ids[:n]


def library_variant() -> str | None:
    """The variant of the C library that this CPU can run; None leaves it to ctransformers.

    ctransformers finds out by itself, but takes over a second for it.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(cpuinfo.partition("flags")[2].partition(":")[2].partition("\n")[0].split())
    if {"avx2", "fma", "f16c"} <= flags:
        return "avx2"
    return "avx" if {"avx", "f16c"} <= flags else "basic"
