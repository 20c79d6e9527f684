"""A model for tests that ask much and need no good answer: it writes nonsense, at once.

It is of the demo model's architecture, with a vocabulary of single bytes and a few words. Its
weights are random, but it writes ASCII, and it likes to end a string or an object of JSON. It ends
a text only where nothing else is allowed.
"""

import random
from pathlib import Path

import numpy as np

from tests.gguf_files import Tensor, bpe_words, random_q4_1, tiny_llama

N_EMBD = 128
# How much more extreme a token's logits are than others'; with 0, some other is always likelier.
EAGER = {b'"': 2.0, b"}": 2.0}


def write_quick_model(path: Path, seed: int = 1) -> Path:
    draft = tiny_llama(n_embd=N_EMBD, n_head=8, n_head_kv=4, n_ff=128, n_ctx=4096, tied=False)
    source = random.Random(seed)
    for name, tensor in draft.tensors.items():
        if len(tensor.shape) > 1:
            draft.tensors[name] = random_q4_1(source, tensor.shape)
    output, words = draft.tensors["output.weight"], bpe_words()
    # Of each row, blocks of ten 16-bit numbers, the first two of which all its values multiply.
    rows = np.frombuffer(output.data, np.float16).reshape(-1, N_EMBD // 32, 10).copy()
    rows[: -len(words), :, :2] = 0
    for row, word in zip(rows[-len(words) :], words, strict=True):
        row[:, :2] *= EAGER.get(word, float(word.isascii() and word.decode().isprintable()))
    draft.tensors["output.weight"] = Tensor(output.shape, rows.tobytes(), output.ggml_type)
    return draft.write(path)
