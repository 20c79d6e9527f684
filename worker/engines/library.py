"""The C library of ctransformers by its ctypes handle.

Its functions abort the process on most bad arguments: whoever calls them checks first.
"""

import ctypes
import weakref

import numpy as np
from ctransformers.llm import Config, load_library
from numpy.typing import NDArray

from shared.errors import EngineError
from shared.model.description import ModelFile
from shared.model.library import library_variant as library_variant
from shared.model.memory import BATCH
from worker.engines.shortened import shortened


class Library:
    """The C library with one loaded model."""

    def __init__(self, file: ModelFile, n_ctx: int, path: str = "") -> None:
        """Load a model that has been inspected; an empty ``path`` takes the package's library.

        Raises:
            EngineError: the library is not there, or it refused the file.
        """
        try:
            library = load_library(path or library_variant())
        except (OSError, ValueError, AttributeError) as error:
            raise EngineError(f"ctransformers' library could not be loaded: {error}") from error
        config = Config(context_length=n_ctx, threads=1, mmap=True).to_struct()
        # Not by way of the package's own class, which takes no pipe.
        with shortened(file, n_ctx) as pipe:
            self._llm = library.ctransformers_llm_create(
                pipe.encode(), file.library_type.encode(), config
            )
            if not self._llm:
                raise EngineError(f"{file.path}: ctransformers could not load the model")
        self._library = library
        self._logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
            ("ctransformers_llm_logits_data", library)
        )
        self._view: tuple[int, NDArray[np.float32]] | None = None
        weakref.finalize(self, library.ctransformers_llm_delete, self._llm).atexit = False
        # All ids and positions are checked against the file's description, so it had better be
        # the library's, too.
        n_vocab = library.ctransformers_llm_vocab_size(self._llm)
        found = library.ctransformers_llm_context_length(self._llm)
        if (n_vocab, found) != (file.n_vocab, n_ctx):
            raise EngineError(
                f"{file.path}: ctransformers sees {n_vocab} tokens and a context of {found},"
                f" not {file.n_vocab} and {n_ctx}"
            )

    def evaluate(self, ids: ctypes.Array[ctypes.c_int], n: int, n_past: int, threads: int) -> bool:
        """Evaluate ``n`` tokens behind ``n_past``; whether it went well."""
        done: bool = self._library.ctransformers_llm_batch_eval(
            self._llm, ids, n, n_past, BATCH, threads
        )
        return done

    def logits(self, n_vocab: int) -> NDArray[np.float32]:
        """A view on the logits of the last token, shape ``(n_vocab,)``."""
        # They are nearly always where they were, and a new view takes ten times as long as a look.
        address = self._logits_address(self._llm)
        if self._view is None or self._view[0] != address:
            row = (ctypes.c_float * n_vocab).from_address(address)
            self._view = address, np.ctypeslib.as_array(row)
        return self._view[1]

    def embedding(self, n_embd: int) -> NDArray[np.float32]:
        """A view on the hidden state of the last token, shape ``(n_embd,)``.

        Raises:
            EngineError: the library has none of that size.
        """
        size = self._library.ctransformers_llm_embeddings_size(self._llm)
        if size != n_embd:
            raise EngineError(f"the engine gives embeddings of {size} numbers, not {n_embd}")
        data = self._library.ctransformers_llm_embeddings_data(self._llm)
        return np.ctypeslib.as_array(data, shape=(n_embd,))

    def tokenize(self, text: bytes) -> list[int]:
        """The library's own tokenization, without a begin token."""
        # At most one id for each byte, and the space that SentencePiece puts in front; the
        # package's own wrapper makes this buffer too small and corrupts the heap.
        ids = (ctypes.c_int * (len(text) + 8))()
        n = self._library.ctransformers_llm_tokenize(self._llm, text, False, ids)
        return ids[:n]
