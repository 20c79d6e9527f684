"""A model for tests that ask much and need no good answer: it writes nonsense, at once.

It is of the demo model's architecture, with a vocabulary of single bytes and a few words. Its
weights are random, but it writes ASCII, and it likes to end a string or an object of JSON.
"""

from pathlib import Path

import numpy as np

from tests.gguf_files import Tensor, bpe_words, tiny_llama

N_EMBD = 128
# How much more extreme a token's logits are than others'; with 0, some other is always likelier.
EAGER = {b'"': 2.0, b"}": 2.0}


def write_quick_model(path: Path, seed: int = 1) -> Path:
    draft = tiny_llama(
        "bytes", n_embd=N_EMBD, n_head=8, n_head_kv=4, n_ff=128, n_ctx=4096, seed=seed
    )
    output, words = draft.tensors["output.weight"], bpe_words()
    rows = np.frombuffer(output.data, np.float32).reshape(-1, N_EMBD).copy()
    for row, word in zip(rows[-len(words) :], words, strict=True):
        row *= EAGER.get(word, float(word.isascii() and word.decode().isprintable()))
    draft.tensors["output.weight"] = Tensor(output.shape, rows.tobytes())
    return draft.write(path)
