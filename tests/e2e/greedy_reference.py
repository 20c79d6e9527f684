"""A program of its own: greedy text straight from ctransformers, without our loop or sampler.

Reads ``{"model": path, "prompts": [[token id]], "max_tokens": n}`` from standard input; writes the
texts as a JSON list.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from ctransformers.llm import LLM, Config

from shared.model.inspect import inspect
from worker.tokenizer.vocabulary import Vocabulary

BATCH = 64


def lib_variant() -> str | None:
    """The library's name for what this CPU can do, where it is known; saves a slow probe."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    return "avx2" if {"avx2", "fma", "f16c"} <= flags else None


def main() -> None:
    work = json.load(sys.stdin)
    vocabulary = Vocabulary.from_model(inspect(Path(work["model"])))
    config = Config(context_length=2048, threads=1, batch_size=BATCH)
    llm = LLM(work["model"], "gguf", config=config, lib=lib_variant())
    n_vocab = len(vocabulary.token_bytes)

    def evaluate(tokens: list[int], n_past: int) -> int:
        array = (ctypes.c_int * len(tokens))(*tokens)
        assert llm.ctransformers_llm_batch_eval(array, len(tokens), n_past, BATCH, 1)
        pointer = llm.ctransformers_llm_logits_data()
        return int(np.argmax(np.ctypeslib.as_array(pointer, shape=(n_vocab,))))

    texts = []
    for prompt in work["prompts"]:
        n_past, following = 0, -1
        for start in range(0, len(prompt), BATCH):
            chunk = prompt[start : start + BATCH]
            following = evaluate(chunk, n_past)
            n_past += len(chunk)
        text = b""
        for _ in range(work["max_tokens"]):
            if following in vocabulary.eog:
                break
            text += vocabulary.token_bytes[following]
            following = evaluate([following], n_past)
            n_past += 1
        texts.append(text.decode("utf-8", "replace"))
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    main()
