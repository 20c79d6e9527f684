"""Tests of the GGUF reader."""

import struct
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelFileError
from shared.model.description import Dimensions
from shared.model.gguf_check import check_gguf
from shared.model.gguf_reader import read_gguf
from shared.model.tensors import TensorInfo, dominant_type
from tests.gguf_files import ARRAY, STRING, U32, GGUFDraft, string, tiny_llama

HEADER = b"GGUF" + struct.pack("<I", 3)


def problem(path: Path, content: bytes | GGUFDraft) -> str:
    raw = content if isinstance(content, bytes) else content.to_bytes()
    path.write_bytes(raw)
    with pytest.raises(ModelFileError) as caught:
        read_gguf(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def draft() -> GGUFDraft:
    return tiny_llama("bytes")


def test_reads_a_whole_file(path: Path, draft: GGUFDraft) -> None:
    file = read_gguf(draft.write(path))
    assert (file.version, file.alignment, file.n_bytes) == (3, 32, path.stat().st_size)
    assert (file.architecture, file.name, file.quantisation) == ("llama", "Tiny", "F32")
    assert file.size == Dimensions(
        n_vocab=292, n_ctx_train=512, n_embd=32, n_head=4, n_head_kv=2, n_layer=2, n_ff=64
    )
    assert (file.tokenizer_model, file.is_byte_form) == ("gpt2", True)
    assert file.weight_bytes == sum(len(tensor.data) for tensor in draft.tensors.values())
    assert "<|im_start|>" in (file.text("tokenizer.chat_template") or "")
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert tokens[:4] == [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>", b"\0"]
    assert file.metadata["tokenizer.ggml.merges"][0] == b"h e"
    assert file.metadata["tokenizer.ggml.add_bos_token"] is False
    assert file.metadata["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    first, last = file.tensors[0], file.tensors[-1]
    assert (first.name, first.shape, first.type_name) == ("token_embd.weight", (32, 292), "F32")
    assert (first.offset, first.n_bytes) == (0, 32 * 292 * 4)
    assert file.data_offset + last.offset + last.n_bytes == file.n_bytes
    check_gguf(file)


@pytest.mark.parametrize("form", ["bytes", "spm"])
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("alignment", [32, 256])
def test_accepts_each_kind(path: Path, form: str, version: int, alignment: int) -> None:
    draft = tiny_llama(form)
    draft.version, draft.alignment = version, alignment
    if alignment != 32:
        draft.metadata["general.alignment"] = (U32, alignment)
    check_gguf(read_gguf(draft.write(path)))


def test_optional_metadata_has_defaults(path: Path, draft: GGUFDraft) -> None:
    for key in ("general.name", "general.file_type", "tokenizer.chat_template"):
        del draft.metadata[key]
    del draft.metadata["llama.attention.head_count_kv"]
    file = read_gguf(draft.write(path))
    assert (file.name, file.quantisation, file.size.n_head_kv) == ("model", "F32", 4)
    assert file.text("tokenizer.chat_template") is None


def test_every_scalar_and_array_type_is_read(path: Path) -> None:
    draft = GGUFDraft()
    values = {0: 255, 1: -1, 2: 65535, 3: -2, 4: 1 << 31, 5: -3, 6: 0.5, 7: True, 10: 1 << 63,
              11: -4, 12: 0.1}  # fmt: skip
    for kind, value in values.items():
        draft.metadata[f"scalar.{kind}"] = (kind, value)
        draft.metadata[f"array.{kind}"] = (ARRAY, kind, [value, value])
    draft.metadata["array.8"] = (ARRAY, STRING, ["é", ""])
    file = read_gguf(draft.write(path))
    for kind, value in values.items():
        assert file.metadata[f"scalar.{kind}"] == value
        assert file.metadata[f"array.{kind}"] == [value, value]
    assert file.metadata["array.8"] == ["é", ""]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "only 0 bytes"),
        (b"GGU", "only 3 bytes"),
        (b"GGUF", "cut short"),
        (b"whatever", "it begins with b'what'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<III", 1, 1, 0), "1 tensors do not fit"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4 is not known"),
        (b"GGUF" + struct.pack("<IQQ", 999, 0, 0), "version 999 is not known"),
        (HEADER + struct.pack("<QQ", 1 << 62, 0), "tensors do not fit"),
        (HEADER + struct.pack("<QQ", 0, 1 << 40), "metadata entries do not fit"),
        (HEADER + struct.pack("<QQQ", 0, 1, 1 << 40) + bytes(20), "of 1,099,511,627,776 bytes"),
        (HEADER + struct.pack("<QQ", 0, 1) + string("") + bytes(9), "a metadata key is ''"),
        (HEADER + struct.pack("<QQ", 0, 1) + string("a\0b") + bytes(9), "a metadata key is"),
        (HEADER + struct.pack("<QQ", 0, 1) + string(b"\xff") + bytes(9), "not UTF-8"),
        (HEADER + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<II", 13, 0), "type 13"),
        (
            HEADER + struct.pack("<QQ", 0, 1) + string("a\nb") + struct.pack("<II", 99, 0),
            "a\\nb has",
        ),
        (
            HEADER + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<IIQ", 9, 9, 1),
            "array of arrays",
        ),
        (
            HEADER + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<IIQ", 9, 99, 1),
            "unknown type 99",
        ),
        (
            HEADER + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<IIQ", 9, 4, 1 << 62),
            "items of k do not fit",
        ),
        (
            HEADER + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<IIQQ", 9, 8, 1, 9),
            "cut short or damaged at string 0 of 1",
        ),
        (
            HEADER + struct.pack("<QQ", 0, 2) + 2 * (string("k") + struct.pack("<IB", 7, 1)),
            "k occurs twice",
        ),
    ],
)
def test_what_is_said_of_a_bad_header(path: Path, content: bytes, said: str) -> None:
    assert said in problem(path, content)


def tensor_header(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return (
        string(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([("x" * 64, (8,), 0, 0)], "a tensor name of 64 bytes"),
        ([("x", (), 0, 0)], "0 dimensions"),
        ([("x", (1, 1, 1, 1, 1), 0, 0)], "5 dimensions"),
        ([("x", (0,), 0, 0)], "shape (0,)"),
        ([("x", (31,), 2, 0)], "shape (31,)"),
        ([("x", (8,), 4, 0)], "unknown type 4"),
        ([("x", (8,), 0, 1)], "not aligned"),
        ([("x", (8,), 0, 32)], "begins at 32, where 0 is due"),
        ([("x", (8,), 0, 0), ("x", (8,), 0, 32)], "x occurs twice"),
        ([("x", (8,), 0, 0), ("y", (8,), 0, 0)], "begins at 0, where 32 is due"),
        ([("x", (1 << 60, 1 << 60), 0, 0)], "bytes are missing"),
        ([("x", (24,), 0, 0)], "32 of 160 bytes are missing"),
        ([("x", (1,), 0, 0)], "32 bytes follow"),
    ],
)
def test_what_is_said_of_bad_tensors(path: Path, tensors: list[Any], said: str) -> None:
    header = HEADER + struct.pack("<QQ", len(tensors), 0)
    header += b"".join(tensor_header(*tensor) for tensor in tensors)
    assert said in problem(path, header + bytes(-len(header) % 32) + bytes(64))


def test_tensor_data_may_stand_in_any_order_and_end_without_padding(path: Path) -> None:
    header = HEADER + struct.pack("<QQ", 2, 0)
    header += tensor_header("y", (1,), 0, 32) + tensor_header("x", (8,), 0, 0)
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(36))
    assert [tensor.name for tensor in read_gguf(path).tensors] == ["y", "x"]


@pytest.mark.parametrize("alignment", [0, 1, 7, 24, 1 << 31])
def test_absurd_alignment(path: Path, draft: GGUFDraft, alignment: int) -> None:
    draft.metadata["general.alignment"] = (U32, alignment)
    assert "alignment" in problem(path, draft)


def test_cut_file_says_how_much_is_missing(path: Path, draft: GGUFDraft) -> None:
    raw = draft.to_bytes()
    assert f" 1 of {len(raw):,} bytes are missing" in problem(path, raw[:-1])
    assert "4,096 of" in problem(path, raw[:-4096])


def test_bytes_decide_which_type_dominates() -> None:
    tensors = [TensorInfo(f"norm{n}", (4,), 0, 16 * n, 16) for n in range(9)]
    tensors += [TensorInfo("a", (256,), 2, 144, 144), TensorInfo("b", (32,), 8, 288, 34)]
    assert dominant_type(tensors) == 0
    assert dominant_type(tensors[1:]) == 2
