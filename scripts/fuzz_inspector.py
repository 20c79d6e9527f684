#!/usr/bin/env python3
"""Fuzzes `shared.model.inspect` by coverage, with atheris (``pip install atheris``).

Each input is a whole model file. A finding is an exception other than a refusal, a description that
contradicts itself, or more than a second of work; atheris leaves the input beside the corpus.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Works from a checkout, too, where nothing is installed.
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_MAX_INPUT = 24_000
_SLOW_S = 1.0


def seeds() -> dict[str, bytes]:
    """Return a small sound file of each format."""
    from tests import legacy_files
    from tests.gguf_files import tiny_llama

    small: dict[str, Any] = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_vocab": 24}
    drafts: dict[str, Any] = {
        "starcoder": legacy_files.tiny_starcoder(n_ctx=4, **small),
        "mpt": legacy_files.tiny_mpt(n_ctx=4, **small),
        "neox": legacy_files.tiny_neox(n_ctx=4, n_rot=2, **small),
        "ggcc": legacy_files.tiny_ggcc(**small),
        "ggcc-40b": legacy_files.tiny_ggcc(falcon_type=40, **small),
        "q4_0": legacy_files.tiny_starcoder(n_embd=32, n_layer=1, n_ctx=2, n_vocab=24, wtype=2),
        "llama-bytes": tiny_llama("bytes", n_layer=1, n_embd=4, n_head=2, n_head_kv=1, n_ff=4),
        "llama": tiny_llama("letters", n_layer=1, n_embd=4, n_head=2, n_head_kv=1, n_ff=4),
        "llama-spm": tiny_llama("spm", n_layer=1, n_embd=4, n_head=2, n_head_kv=1, n_ff=4),
        "falcon": legacy_files.tiny_falcon(n_embd=4, n_head=2),
        "falcon-v1": legacy_files.tiny_falcon(n_embd=4, n_head=2),
    }
    drafts["falcon-v1"].version = 1
    return {name: draft.to_bytes() for name, draft in drafts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=int, nargs="?", default=600)
    parser.add_argument("--corpus", type=Path, help="where inputs are kept from run to run")
    options = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print(f"{parser.prog}: atheris is missing; pip install atheris", file=sys.stderr)
        return 2
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz-inspector-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        assert len(content) <= _MAX_INPUT, name
        (corpus / name).write_bytes(content)
    with atheris.instrument_imports(include=["shared"]):
        from shared.errors import ModelFileError
        from shared.model.inspect import inspect
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="fuzz-inspector-", dir=folder)) / "model"

    def look(content: bytes) -> None:
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            model = inspect(path)
        except ModelFileError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
        else:
            assert len(model.tokens) == model.n_vocab > 0
            assert 1 <= model.n_ctx_most <= model.n_ctx_train
            assert sum(one.n_bytes for one in model.tensors) < model.n_bytes == len(content)
            assert all(one is None or one < model.n_vocab for one in (model.bos, model.eos))
            assert min(model.memory.weights, model.memory.scratch) > 0
        assert time.perf_counter() - start < _SLOW_S, "slow"

    arguments = [sys.argv[0], str(corpus), f"-max_total_time={options.seconds}"]
    arguments += [f"-max_len={_MAX_INPUT}", "-rss_limit_mb=2048", "-print_final_stats=1"]
    arguments.append(f"-artifact_prefix={corpus.parent}/finding-")
    atheris.Setup(arguments, look)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
