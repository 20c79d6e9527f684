"""Whatever becomes of a file's bytes: it is described or refused, and what is described loads."""

import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ModelFileError
from shared.model.description import ModelFile
from shared.model.inspect import inspect
from tests.gguf_files import tiny_llama
from tests.legacy_files import (
    tiny_falcon,
    tiny_ggcc,
    tiny_gpt2,
    tiny_mpt,
    tiny_neox,
    tiny_starcoder,
)

ROOT = Path(__file__).parents[3]
FILES: dict[str, Callable[[], bytes]] = {
    "starcoder": lambda: tiny_starcoder(n_layer=1, wtype=2).to_bytes(),
    "gpt2": lambda: tiny_gpt2().to_bytes(),
    "mpt": lambda: tiny_mpt(n_layer=1, wtype=1).to_bytes(),
    "neox": lambda: tiny_neox(n_layer=1, wtype=8).to_bytes(),
    "ggcc": lambda: tiny_ggcc(n_layer=1).to_bytes(),
    "falcon": lambda: tiny_falcon(two_norms=True).to_bytes(),
    "llama": lambda: tiny_llama("bytes", n_layer=1).to_bytes(),
    "letters": lambda: tiny_llama("letters", n_layer=1).to_bytes(),
    "spm": lambda: tiny_llama("spm", n_layer=1).to_bytes(),
}
RAW = {name: make() for name, make in FILES.items()}
ABSURD = (0, 1, 2, 12, 255, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)

# Loads and evaluates the files that it is told, and says so after each.
CHILD = """
import ctypes, sys
from ctransformers import LLM, Config
from shared.model.inspect import inspect
for line in sys.stdin:
    path = line.strip()
    model = inspect(path)
    n_ctx = min(model.n_ctx_most, 64)
    llm = LLM(path, model.library_type, lib="avx2",
              config=Config(context_length=n_ctx, threads=1))
    assert llm.vocab_size == model.n_vocab
    n_past = 0
    for n_tokens in (min(32, n_ctx - 1), 1):
        ids = (ctypes.c_int * n_tokens)(*(index % model.n_vocab for index in range(n_tokens)))
        if n_tokens:
            assert llm.ctransformers_llm_batch_eval(ids, n_tokens, n_past, n_tokens, 1)
        n_past += n_tokens
    assert llm.ctransformers_llm_logits_size() == model.n_vocab
    print(path, flush=True)
"""


def damaged(raw: bytes, source: random.Random) -> bytes:
    """Change some bytes; most of them in the first part of the file, where numbers are."""
    content = bytearray(raw)
    for _ in range(source.choice((1, 1, 2, 5))):
        end = source.choice((64, 9_000, len(content)))
        at = source.randrange(4, min(end, len(content)) - 8)
        match source.randrange(5):
            case 0 | 1:
                content[at] ^= 1 << source.randrange(8)
            case 2:
                content[at] = source.randrange(256)
            case 3:
                content[at : at + 4] = struct.pack("<I", source.choice(ABSURD))
            case _:
                other = source.randrange(4, len(content) - 8)
                content[at : at + 4] = content[other : other + 4]
    return bytes(content)


def looked_at(path: Path, content: bytes) -> ModelFile | None:
    """Inspect a file with this content; it has to be quick about it."""
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        return inspect(path)
    except ModelFileError as error:
        assert str(error).startswith(str(path))
        return None
    finally:
        assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", RAW)
def test_what_is_accepted_loads(tmp_path: Path, name: str) -> None:
    source = random.Random(name)
    paths: list[Path] = []
    while len(paths) < 12:
        content = damaged(RAW[name], source)
        path = tmp_path / f"{len(paths)}"
        model = looked_at(path, content)
        if content != RAW[name] and model is not None and not model.needs_rewrite:
            paths.append(path)
        elif name == "letters" and source.random() < 0.01:
            break
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == list(map(str, paths)), done.stderr


@pytest.mark.parametrize("name", RAW)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_nothing_but_a_description_or_a_refusal(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    content = bytearray(RAW[name])
    at = data.draw(st.integers(0, min(9_000, len(content) - 1)))
    match data.draw(st.sampled_from(("flip", "cut", "insert", "swap", "number", "wide"))):
        case "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del content[at : at + data.draw(st.integers(1, 5_000))]
        case "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=64))
        case "swap":
            other, n = data.draw(st.integers(0, len(content))), data.draw(st.integers(1, 64))
            content[at : at + n], content[other : other + n] = (
                content[other : other + n],
                content[at : at + n],
            )
        case "number":
            content[at : at + 4] = struct.pack("<I", data.draw(st.integers(0, (1 << 32) - 1)))
        case _:
            content[at : at + 8] = struct.pack("<Q", data.draw(st.integers(0, (1 << 64) - 1)))
    looked_at(tmp_path / "x", bytes(content))
