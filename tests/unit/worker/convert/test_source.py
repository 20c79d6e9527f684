"""Reading model folders."""

import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared.errors import UsageError
from tests.models.reference import references
from tests.unit.worker.convert.folders import SHARD, Tensors, edit_tensors, folder, read_tensors
from worker.convert.conversion import convert
from worker.convert.source import ModelFolder
from worker.convert.tensors import WeightType, encode, encoded

INDEX = "model.safetensors.index.json"


def split(model: Path, parts: dict[str, list[str]]) -> None:
    """Distribute the weights over several files, and write their index."""
    tensors = read_tensors(model)
    (model / SHARD).unlink()
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, model / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (model / INDEX).write_text(json.dumps(index))


def halves(model: Path) -> dict[str, list[str]]:
    names = sorted(read_tensors(model))
    return {
        "model-00001-of-00002.safetensors": names[:9],
        "model-00002-of-00002.safetensors": names[9:],
    }


def refused(model: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        ModelFolder(model)


def test_shards_make_the_same_file(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    split(model, halves(model))
    convert(model, tmp_path / "m.bin", WeightType.F16)
    assert (tmp_path / "m.bin").read_bytes() == references()["gpt2"].paths[0].read_bytes()


def test_shards_without_an_index(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    split(model, halves(model))
    (model / INDEX).unlink()
    convert(model, tmp_path / "m.bin", WeightType.F16)
    assert (tmp_path / "m.bin").read_bytes() == references()["gpt2"].paths[0].read_bytes()


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    split(model, halves(model))
    save_file({"lora_A": np.zeros(3, np.float32)}, model / "adapter.safetensors")
    convert(model, tmp_path / "m.bin", WeightType.F16)


def test_a_missing_shard(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    split(model, halves(model))
    (model / "model-00002-of-00002.safetensors").unlink()
    refused(model, "model-00002-of-00002.safetensors: cannot be read")


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    shutil.copy(model / SHARD, model / "more.safetensors")
    refused(model, "more.safetensors: tensor transformer.h.0.ln_1.bias is in another file, too")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {"a": "../b"}}', "{"])
def test_a_bad_index(content: str, tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    (model / INDEX).write_text(content)
    refused(model, INDEX)


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "none: not a folder")


def test_no_config(tmp_path: Path) -> None:
    refused(tmp_path, "config.json: cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("content", "message"), [("[1]", "is not a JSON object"), ("{x", "is not JSON")]
)
def test_a_bad_config(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    refused(tmp_path, f"config.json: {message}")


def test_no_safetensors(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    (model / SHARD).rename(model / "pytorch_model.bin")
    refused(model, "has no *.safetensors; other formats of weights can run code")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_damaged_safetensors(cut: int, tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    content = (model / SHARD).read_bytes()
    (model / SHARD).write_bytes(content[:cut])
    refused(model, f"{SHARD}: cannot be read as safetensors")


def test_unknown_types_of_weights(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    save_file({"transformer.wte.weight": np.zeros((2, 2), np.int8)}, model / SHARD)
    refused(model, "tensor transformer.wte.weight is of the type I8; F32, F16, BF16 are known")


def test_what_old_checkpoints_hold_besides_weights(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    tensors: dict[str, Any] = read_tensors(model)
    tensors["transformer.h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.bool_)
    tensors["transformer.h.0.attn.masked_bias"] = np.zeros((), np.float32)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    save_file(tensors, model / SHARD)
    convert(model, tmp_path / "m.bin", WeightType.F16)
    assert (tmp_path / "m.bin").read_bytes() == references()["gpt2"].paths[0].read_bytes()


def test_names_without_their_first_part(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    edit_tensors(model, rename)
    convert(model, tmp_path / "m.bin", WeightType.F16)
    assert (tmp_path / "m.bin").read_bytes() == references()["gpt2"].paths[0].read_bytes()


@pytest.mark.parametrize("name", ["embed_out.weight", "lm_head.weight"])
def test_both_names_of_the_neox_head(name: str, tmp_path: Path) -> None:
    model = folder("neox-parallel", tmp_path)

    def rename(tensors: Tensors) -> None:
        (head,) = tensors.keys() & {"embed_out.weight", "lm_head.weight"}
        tensors[name] = tensors.pop(head)

    edit_tensors(model, rename)
    convert(model, tmp_path / "m.bin", WeightType.F16)
    assert (tmp_path / "m.bin").read_bytes() == references()["neox-parallel"].paths[0].read_bytes()


def test_bfloat16(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    name = "transformer.h.0.mlp.c_fc.weight"
    header = json.loads((model / SHARD).read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert header[name]["dtype"] == "BF16"
    bits = np.array([0x3F80, 0xC049, 0x0001, 0x7F7F], np.uint16)
    weight = ModelFolder(model).weights.take(name, (64, 256))
    weight = type(weight)(name, bits)
    (values,) = weight.blocks()
    assert values.tolist() == [1.0, -3.140625, 2.0**-133, float(np.float32(3.3895314e38))]


def test_all_types_give_the_same(tmp_path: Path) -> None:
    """The reference's weights survive every rounding, so any storage makes the same file."""
    model = folder("gpt2", tmp_path)
    edit_tensors(model, lambda tensors: None)
    assert {array.dtype for array in load_file(model / SHARD).values()} == {np.dtype(np.float32)}
    convert(model, tmp_path / "m.bin", WeightType.F16)
    assert (tmp_path / "m.bin").read_bytes() == references()["gpt2"].paths[0].read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("weight_type", WeightType, ids=lambda weight_type: weight_type.label)
def test_memory_does_not_grow_with_the_model(
    weight_type: WeightType, dtype: type[np.floating[Any]], tmp_path: Path
) -> None:
    """A tensor of 32 MB as 32-bit floats is widened and encoded in far less memory."""
    shutil.copy(references()["gpt2"].copy_folder(tmp_path) / "config.json", tmp_path)
    rows, columns = 8192, 1024
    save_file({"large": np.ones((rows, columns), dtype)}, tmp_path / SHARD)
    weight = ModelFolder(tmp_path).weights.take("large", (rows, columns))
    (plain,) = encoded({"large": weight}, weight_type)
    backwards = np.arange(rows, dtype=np.intp)[::-1]
    (moved,) = encoded({"large": weight.transposed.transposed.rows(backwards)}, weight_type)
    list(encode(np.ones((1, 32), np.float32), weight_type))  # imports what it needs
    with open(os.devnull, "wb") as sink:
        tracemalloc.start()
        written = [sum(map(sink.write, tensor.chunks())) for tensor in (plain, moved)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert written == [plain.n_bytes] * 2
    # The gguf package holds a few copies of what it quantises.
    assert peak < (36 << 20 if weight_type.is_quantised else 16 << 20)
