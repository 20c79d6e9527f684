"""Tests of how llama.cpp's library is found and loads a model: builds, adapters, memory."""

import platform
import random
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.engine import source_for
from gateway.plan import plan_for
from gateway.settings import Settings
from shared.config import WorkerConfig
from shared.errors import EngineError, UsageError
from shared.model.inspect import inspect
from shared.model.llamacpp_library import VERSION, find_llamacpp
from shared.model.tensors import REPACKED_TYPES, TENSOR_TYPES
from tests.gguf_files import F32, STRING, GGUFDraft, Tensor, tiny_llama
from tests.gguf_kinds import tiny
from worker.engines.base import SlotTokens
from worker.engines.llamacpp import LlamaCppEngine
from worker.engines.llamacpp_library import _LOG_CALLBACK, Library

TOKENS = list(range(10, 60))
SHIFTED = """
#include <string.h>
struct params { char bytes[200]; };
struct params llama_model_default_params(void) {
    struct params p; memset(&p, 0x55, sizeof p); return p;
}
"""


def of_type(ggml_type: int) -> GGUFDraft:
    """A model whose layers have matrices of a type."""
    _, n_block, n_bytes = TENSOR_TYPES[ggml_type]
    draft = tiny_llama(n_embd=256, n_ff=512, n_layer=1)
    for name, tensor in draft.tensors.items():
        if len(tensor.shape) > 1 and name.startswith("blk"):
            count = tensor.shape[0] * tensor.shape[1]
            data = bytes(count // n_block * n_bytes)
            draft.tensors[name] = Tensor(tensor.shape, data, ggml_type)
    return draft


@pytest.mark.skipif(platform.machine() != "x86_64", reason="known of the build for x86-64")
@pytest.mark.parametrize("ggml_type", [1, 2, 3, 8, 12, 14, 20, 39])
def test_what_the_library_repacks_is_read_and_all_else_is_mapped(
    ggml_type: int, tmp_path: Path
) -> None:
    path = of_type(ggml_type).write(tmp_path / "model.gguf")
    library, said = Library(), list[str]()
    log = _LOG_CALLBACK(lambda _level, text, _: said.append((text or b"").decode()))
    library.c.llama_log_set(log, None)
    params = library.model_params(load_mode=1, n_gpu_layers=0)
    assert library.c.llama_model_load_from_file(str(path).encode(), params)
    is_repacked = any("CPU_REPACK model buffer" in line for line in said)
    assert is_repacked == (ggml_type in REPACKED_TYPES)
    assert is_repacked == inspect(path, engine="llamacpp").is_repacked
    other = shutil.copy(path, tmp_path / "other.gguf")
    engine = LlamaCppEngine(WorkerConfig("llamacpp", str(other), n_ctx=256))
    assert (str(other) in Path("/proc/self/maps").read_text()) == (not is_repacked)
    assert engine.n_slots == 1


def logits(path: Path, **config: object) -> NDArray[np.float32]:
    engine = LlamaCppEngine(WorkerConfig("llamacpp", str(path), n_ctx=256, **config))  # type: ignore[arg-type]
    (row,) = engine.forward([SlotTokens(0, TOKENS)], 1)
    assert row is not None
    return row.copy()


def adapter(architecture: str = "llama", kind: str = "lora", width: int = 32) -> GGUFDraft:
    source, rank = random.Random(1), 4
    draft = GGUFDraft({
        "general.architecture": (STRING, architecture),
        "general.type": (STRING, "adapter"),
        "adapter.type": (STRING, kind),
        "adapter.lora.alpha": (F32, 8.0),
    })  # fmt: skip
    for name, shape in (("lora_a", (width, rank)), ("lora_b", (rank, width))):
        values = (source.gauss(0, 0.5) for _ in range(width * rank))
        data = struct.pack(f"<{width * rank}f", *values)
        draft.tensors[f"blk.0.attn_q.weight.{name}"] = Tensor(shape, data)
    return draft


def test_an_adapter_changes_the_logits_by_its_scale(tmp_path: Path) -> None:
    model = tiny_llama().write(tmp_path / "model.gguf")
    lora = adapter().write(tmp_path / "lora.gguf")
    plain = logits(model)
    settings = Settings(model_name=str(model), lora=f"{lora}:0.5,{lora}")
    worker = plan_for(settings).worker
    assert worker.adapters == ((str(lora), 0.5), (str(lora), 1.0))
    weights = source_for(settings).file.memory.weights
    assert weights == inspect(model, engine="llamacpp").memory.weights + 2 * 2 * 32 * 4 * 4
    assert np.array_equal(logits(model, adapters=((str(lora), 0.0),)), plain)
    once = logits(model, adapters=((str(lora), 1.0),))
    half = logits(model, adapters=((str(lora), 0.5),))
    assert np.abs(half - plain).max() > 0.1 and not np.allclose(half, once, atol=0.05)
    wrong = adapter(width=64).write(tmp_path / "wide.gguf")
    with pytest.raises(EngineError, match=r"LORA=.*wide\.gguf: llama\.cpp cannot load it: .+"):
        logits(model, adapters=((str(wrong), 1.0),))


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (adapter("qwen3"), r"an adapter of qwen3 models; this model's architecture is llama$"),
        (adapter(kind="control"), "is no LoRA adapter"),
        (tiny("qwen3"), "is no LoRA adapter"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_adapter_of_the_model(
    draft: GGUFDraft | None, said: str, tmp_path: Path
) -> None:
    model = tiny_llama().write(tmp_path / "model.gguf")
    if draft is not None:
        draft.write(tmp_path / "lora.gguf")
    with pytest.raises(UsageError, match=said):
        plan_for(Settings(model_name=str(model), lora=str(tmp_path / "lora.gguf")))


def test_a_cache_of_eight_bits_takes_half_the_memory(tmp_path: Path) -> None:
    model = tiny_llama(n_embd=128, n_head=4, n_ctx=4096).write(tmp_path / "model.gguf")
    half, whole = (
        source_for(Settings(model_name=str(model), cache_type=kind)).file.memory.kv_per_token
        for kind in ("q8_0", "f16")
    )
    assert half == whole * 34 // 64
    assert plan_for(Settings(model_name=str(model), cache_type="q8_0")).worker.cache_type == "q8_0"
    eight, sixteen = logits(model, cache_type="q8_0"), logits(model)
    assert np.corrcoef(eight, sixteen)[0, 1] > 0.9 and not np.array_equal(eight, sixteen)
    # Heads of 8 numbers are no blocks of 32.
    small = tiny_llama().write(tmp_path / "small.gguf")
    with pytest.raises(EngineError, match=r"makes no context with CACHE_TYPE=q8_0: .+"):
        logits(small, cache_type="q8_0")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"lora": "x"}, "LORA"),
        ({"cache_type": "q8_0"}, "CACHE_TYPE"),
        ({"llama_lib": __file__}, "LLAMA_LIB"),
    ],
)
@pytest.mark.parametrize("form", ["letters", "bytes"])
def test_ctransformers_has_none_of_these(
    settings: dict[str, str], name: str, form: str, tmp_path: Path
) -> None:
    model = tiny_llama(form).write(tmp_path / "model.gguf")
    engine = "ctransformers" if form == "letters" else "auto"
    with pytest.raises(UsageError, match=f"^{name} is for llama.cpp, and ctransformers serves"):
        plan_for(Settings(model_name=str(model), engine=engine, **settings))  # type: ignore[arg-type]


def test_another_library_is_used_if_its_layout_is_known(tmp_path: Path) -> None:
    copy = tmp_path / "libllama.so"
    copy.symlink_to(find_llamacpp().path)
    for name in (str(copy), f"{copy}@{VERSION}"):
        assert Library(name).model_params(load_mode=0)
    with pytest.raises(EngineError, match=r"is of version 1\.0, and only .* is known here"):
        Library(f"{copy}@1.0")
    with pytest.raises(UsageError, match=r"LLAMA_LIB=/no/lib\.so: there is no file /no/lib\.so"):
        plan_for(Settings(llama_lib="/no/lib.so"))
    with pytest.raises(EngineError, match="could not be loaded"):
        Library(__file__)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_a_library_of_another_layout_is_refused_without_a_crash(tmp_path: Path) -> None:
    (tmp_path / "shifted.c").write_text(SHIFTED)
    library, package = tmp_path / "shifted.so", find_llamacpp().path
    # All other functions are the package's.
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "shifted.c", "-Wl,--no-as-needed",
         f"-Wl,-rpath,{Path(package).parent}", package],
        check=True, timeout=60,
    )  # fmt: skip
    with pytest.raises(EngineError, match=r"is not a library of version 2026\S+: n_gpu_layers of"):
        Library(str(library))
