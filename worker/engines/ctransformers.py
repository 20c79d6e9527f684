"""The engine for model files: the C library of ctransformers 0.2.27.

The library's own generation loop, tokenizers and samplers are not used (they are unsafe or wrong in
ways that cannot be mended from outside); only its evaluation is, through its ctypes handle, with
every argument checked first, since the C code aborts the process on most bad ones.
"""

import ctypes
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.config import WorkerConfig
from shared.errors import EngineError, ModelFileError
from shared.messages import ModelInfo
from shared.model.description import Family, FileFormat, ModelFile
from shared.model.inspect import inspect
from shared.model.memory import BATCH
from worker.engines.base import Logits, SavesNothing, SlotTokens, common_prefix
from worker.engines.library import Library
from worker.tokenizer.file import TokenizerFile
from worker.tokenizer.tokenizer import build_tokenizer
from worker.tokenizer.vocabulary import Vocabulary

# ggml's dot product of 16-bit floats adds up blocks of 32 elements apart from what is left over. In
# attention its length is that of the cache after the chunk, so the rounding of a token's result
# depends on where its chunk ends, and 8-bit activations blow that up to tenths of a logit.
_BLOCK = 32
assert _BLOCK <= BATCH, "the library's buffers are not known to hold more"
# The library keeps the hidden states of these families only.
_WITH_EMBEDDINGS = (Family.LLAMA, Family.FALCON)

logger = logging.getLogger(__name__)


class CTransformersEngine(SavesNothing):
    """One model with one slot."""

    n_slots = 1
    batch_size = _BLOCK

    def __init__(self, config: WorkerConfig) -> None:
        """Check and load ``config.model_path``.

        Raises:
            ModelFileError: the file, or the tokenizer that was asked for, is not fit; the library
                has not opened it.
            EngineError: the library refused it all the same.
        """
        file = inspect(Path(config.model_path), config.model_type)
        n_ctx = config.n_ctx or file.n_ctx_most
        if file.needs_rewrite:
            raise EngineError(f"{file.path}: it has to be rewritten for the engine first")
        if not 1 <= n_ctx <= file.n_ctx_most:
            raise EngineError(
                f"the context length {n_ctx} is outside 1..{file.n_ctx_most},"
                " which is what the engine can take for this model"
            )
        # Whatever else may be wrong is found out before the weights are read.
        override = _tokenizer_file(config, file)
        vocabulary = Vocabulary.from_model(file, override)
        self._tokenizer = build_tokenizer(file, vocabulary, self._library_tokenize, override)
        self._library = Library(file, n_ctx, config.library)
        self._vocabulary = vocabulary
        self.info = ModelInfo(
            family=file.family_name,
            n_ctx=n_ctx,
            n_vocab=file.n_vocab,
            max_token_bytes=vocabulary.max_token_bytes,
            chat_template=file.chat_template,
            tool_template=file.named_templates.get("tool_use"),
            bos_token=vocabulary.text(vocabulary.bos),
            eos_token=vocabulary.text(vocabulary.eos),
            fim_tokens=vocabulary.fim_tokens,
            # This format keeps its cache of values in strides of the tokens evaluated before, so
            # what is there can be continued, but not from an earlier place.
            most_rewound=0 if file.file_format is FileFormat.GGCC else None,
            n_embd=file.size.n_embd if file.family in _WITH_EMBEDDINGS else 0,
            n_ctx_train=file.n_ctx_train,
            quantisation=file.quantisation,
        )
        self.eog = vocabulary.eog
        self.special_tokens = vocabulary.special
        self._cache: list[int] = []
        self._buffer = (ctypes.c_int * _BLOCK)()

    def tokenize(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        """Turn a prompt into ids: plain text and texts of special tokens by turns."""
        return self._tokenizer.encode(prompt, begins=begins)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; empty for control tokens."""
        return self._vocabulary.token_bytes[token]

    def token_name(self, token: int) -> str:
        """What a token is called: its text, or its number if it has none."""
        return self._vocabulary.text(token) or f"<{token}>"

    def reuse_prefix(self, slot: int, tokens: Sequence[int], *, most: int | None = None) -> int:
        """Cut the cache down to what it shares with ``tokens``, where rewinding is exact."""
        cache = self._cache
        n_cached = common_prefix(cache, list(tokens[:-1])[:most])
        if n_cached < len(cache) and self.info.most_rewound == 0:
            n_cached = 0
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

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
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
        if not self._library.evaluate(self._buffer, n_tokens, n_past, max(1, threads)):
            self._cache.clear()
            raise EngineError("the engine failed to evaluate the tokens")
        self._cache.extend(tokens)
        return [self._library.logits(self.info.n_vocab) if slot.wants_logits else None]

    def embedding(self, slot: int) -> NDArray[np.float32]:
        """A view on the hidden state of the last token, not a copy."""
        return self._library.embedding(self.info.n_embd)

    def _library_tokenize(self, text: bytes) -> list[int]:
        return self._library.tokenize(text)


def _tokenizer_file(config: WorkerConfig, file: ModelFile) -> TokenizerFile | None:
    if not config.tokenizer_path:
        return None
    try:
        return TokenizerFile.read(config.tokenizer_path, file)
    except ModelFileError as error:
        if not config.tokenizer_is_optional:
            raise
        logger.warning("%s; the tokenizer is made from the model file instead", error)
        return None
