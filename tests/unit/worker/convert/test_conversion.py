"""Whole conversions of the reference models, to every layout and type."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import safe_open

from shared.model.description import FileFormat
from shared.model.inspect import inspect
from tests.models.reference import references
from worker.convert.conversion import convert
from worker.convert.layout import Format
from worker.convert.tensors import WeightType

FILES = [path for reference in references().values() for path in reference.paths]
N_CTX = 256
CONTEXT_NOTE = (
    "the ggcc layout has no context length, and the server takes 2,048 tokens for this model's "
    "256: set CONTEXT_LENGTH=256, or take GGUF",
)


def folder_of(path: Path, parent: Path) -> Path:
    return references()[path.stem].copy_folder(parent)


def test_there_are_files_of_every_variant() -> None:
    assert len(FILES) == len(references()) + 3
    assert {reference.family for reference in references().values()} == {
        "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "llama", "mpt",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_committed_files_are_what_the_converter_writes(path: Path, tmp_path: Path) -> None:
    target = tmp_path / path.name
    layout = convert(folder_of(path, tmp_path), target, WeightType.F16)
    assert target.read_bytes() == path.read_bytes()
    assert layout.n_bytes == path.stat().st_size
    assert layout.notes == (CONTEXT_NOTE if inspect(target).file_format is FileFormat.GGCC else ())
    # Nothing but what was asked for.
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / path.stem, target])


@pytest.mark.parametrize(
    "weight_type",
    [WeightType.F32, WeightType.Q8_0, WeightType.Q4_0],
    ids=lambda weight_type: weight_type.label,
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_type_passes_inspection(path: Path, weight_type: WeightType, tmp_path: Path) -> None:
    target = tmp_path / path.name
    convert(folder_of(path, tmp_path), target, weight_type)
    found, committed = inspect(target), inspect(path)
    assert found.quantisation == weight_type.name
    assert found.family is committed.family
    assert [tensor.name for tensor in found.tensors] == [t.name for t in committed.tensors]
    for tensor in found.tensors:
        is_vector = len(tensor.shape) == 1 or tensor.name == "model/wpe"
        assert tensor.type_name == ("F32" if is_vector else weight_type.name)


def test_without_a_format_the_name_decides(tmp_path: Path) -> None:
    folder = references()["falcon-7b"].copy_folder(tmp_path)
    for name, expected in (("a.bin", FileFormat.GGCC), ("a.GGUF", FileFormat.GGUF)):
        convert(folder, tmp_path / name, WeightType.F16)
        assert inspect(tmp_path / name).file_format is expected


def test_a_format_can_be_named(tmp_path: Path) -> None:
    folder = references()["gpt2"].copy_folder(tmp_path)
    convert(folder, tmp_path / "model", WeightType.F16, Format.GGML)
    assert inspect(tmp_path / "model").file_format is FileFormat.GGML


@pytest.mark.parametrize("name", ["starcoder-mqa", "gpt2", "neox-parallel", "mpt-clip"])
def test_a_shorter_context(name: str, tmp_path: Path) -> None:
    folder = references()[name].copy_folder(tmp_path)
    for wanted, expected in ((100, 100), (N_CTX, N_CTX)):
        convert(folder, tmp_path / "m.bin", WeightType.F16, n_ctx=wanted)
        found = inspect(tmp_path / "m.bin")
        assert found.n_ctx_train == expected
        assert {tensor.shape for tensor in found.tensors if tensor.name == "model/wpe"} <= {
            (found.size.n_embd, expected)
        }


def test_a_gguf_file_says_what_the_folder_says(tmp_path: Path) -> None:
    reference = references()["llama-gqa"]
    found = inspect(reference.paths[0])
    settings = json.loads((reference.copy_folder(tmp_path) / "tokenizer_config.json").read_text())
    assert found.name == "llama-gqa"
    assert found.chat_template == settings["chat_template"]
    assert found.tokens[found.bos or 0].decode() == settings["bos_token"]
    assert found.tokens[found.eos or 0].decode() == settings["eos_token"]
    assert found.add_bos is True
    assert found.pre_tokenizer == "llama-bpe"
    assert found.size.n_head_kv == 2
    assert not found.needs_rewrite


def test_another_library_reads_the_same_from_gguf(tmp_path: Path) -> None:
    reference = references()["falcon-40b"]
    path = next(path for path in reference.paths if path.suffix == ".gguf")
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    with safe_open(reference.copy_folder(tmp_path) / "model.safetensors", "numpy") as source:
        embedding = source.get_tensor("transformer.word_embeddings.weight")
        attention = source.get_tensor("transformer.h.1.self_attention.query_key_value.weight")
        norm = source.get_tensor("transformer.h.1.ln_attn.bias")
    assert np.array_equal(tensors["token_embd.weight"], embedding)
    assert np.array_equal(tensors["blk.1.attn_norm_2.bias"], norm)
    # Two groups, each of two queries, a key and a value, of 16 rows.
    groups = attention.reshape(2, 4, 16, 64)
    expected = np.concatenate([groups[:, :2].reshape(-1, 64), groups[:, 2].reshape(-1, 64),
                               groups[:, 3].reshape(-1, 64)])  # fmt: skip
    assert np.array_equal(tensors["blk.1.attn_qkv.weight"], expected)
    assert bytes(reader.fields["tokenizer.ggml.tokens"].parts[-1]) == inspect(path).tokens[-1]


def test_a_larger_base_of_positions_needs_gguf(tmp_path: Path) -> None:
    folder = references()["falcon-40b"].copy_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500000.0
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "m.gguf", WeightType.F16)
    assert inspect(tmp_path / "m.gguf").details["rope.freq_base"] == 500000
