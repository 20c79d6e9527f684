"""Every broken file is refused with its reason, whatever is broken and in whatever format."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import ModelFileError
from shared.model.inspect import inspect
from tests.gguf_files import F32, GGUFDraft, Tensor
from tests.legacy_files import (
    LegacyDraft,
    tiny_falcon,
    tiny_ggcc,
    tiny_gpt2,
    tiny_mpt,
    tiny_neox,
    tiny_starcoder,
)

LEGACY: dict[str, Callable[[], LegacyDraft]] = {
    "starcoder": tiny_starcoder,
    "gpt2": tiny_gpt2,
    "mpt": tiny_mpt,
    "neox": tiny_neox,
    "ggcc": tiny_ggcc,
}
ALL: dict[str, Callable[[], LegacyDraft | GGUFDraft]] = {**LEGACY, "gguf": tiny_falcon}
MAGIC = {"ggcc": b"ccgg", "gguf": b"GGUF"}
INT_MAX = (1 << 31) - 1


def problem(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        inspect(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


@pytest.mark.parametrize("name", ALL)
def test_cut_anywhere(path: Path, name: str) -> None:
    draft = ALL[name]()
    raw = draft.to_bytes()
    assert inspect_bytes(path, raw)
    # Every byte of the header and the first words; then prime strides, and the last bytes.
    end = len(raw) - 100
    cuts = [*range(500), *range(500, 8_000, 13), *range(8_000, end, 997), *range(end, len(raw))]
    with path.open("rb+") as file:
        for cut in reversed(cuts):
            file.truncate(cut)
            with pytest.raises(ModelFileError):
                inspect(path)


def inspect_bytes(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    return inspect(path).n_bytes == len(content)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("surplus", [1, 10, 11, 12, 13, 200])
def test_surplus_bytes(path: Path, name: str, surplus: int) -> None:
    raw = ALL[name]().to_bytes()
    for filler in (bytes(surplus), random.Random(surplus).randbytes(surplus)):
        problem(path, raw + filler)
    assert "follow the last tensor" in problem(path, raw + b"\xff")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("length", [0, 16, 2000, 100_000])
def test_right_magic_and_nonsense(path: Path, name: str, length: int) -> None:
    magic = MAGIC.get(name, b"lmgg")
    for seed in range(10):
        problem(path, magic + random.Random(seed).randbytes(length))
    problem(path, magic + bytes(length))
    problem(path, magic + b"\xff" * length)


HARMLESS = {("mpt", "clip_qkv", INT_MAX), ("mpt", "clip_qkv", 1 << 24), ("neox", "par_res", 0)}
"""Numbers that mean something else, not something wrong."""


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("value", [0, -1, INT_MAX, -INT_MAX - 1, 1 << 24])
def test_header_numbers(path: Path, name: str, value: int) -> None:
    for field, right in LEGACY[name]().header.items():
        draft = LEGACY[name]()
        draft.header[field] = value
        if value != right and (name, field, value) not in HARMLESS:
            assert problem(path, draft.to_bytes()), field


@pytest.mark.parametrize(
    "field",
    ["context_length", "embedding_length", "feed_forward_length", "block_count",
     "attention.head_count", "attention.head_count_kv"],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, INT_MAX + 1, (1 << 32) - 1, INT_MAX])
def test_numbers_of_gguf(path: Path, field: str, value: int) -> None:
    draft = tiny_falcon()
    draft.metadata[f"falcon.{field}"] = (4, value)
    if (field, value) != ("context_length", INT_MAX):
        assert field in problem(path, draft.to_bytes()) or value == INT_MAX


@pytest.mark.parametrize("name", LEGACY)
def test_header_numbers_that_are_wrong_together(path: Path, name: str) -> None:
    draft = LEGACY[name]()
    draft.header["n_head"] = 5
    assert "5 attention heads do not divide a width of 32" in problem(path, draft.to_bytes())


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("length", [1 << 31, (1 << 32) - 1, 1 << 17])
def test_words_that_are_too_long(path: Path, name: str, length: int) -> None:
    raw = LEGACY[name]().to_bytes()
    at = raw.index(b"hello") - 4
    said = problem(path, raw[:at] + struct.pack("<I", length) + raw[at + 4 :])
    assert "cut short or damaged at string" in said


@pytest.mark.parametrize("name", LEGACY)
def test_number_of_words(path: Path, name: str) -> None:
    for change in (-1, 1):
        draft = LEGACY[name]()
        draft.header["n_vocab"] += change
        problem(path, draft.to_bytes())
        if draft.again is not None:
            draft.again += change
            problem(path, draft.to_bytes())


@pytest.mark.parametrize("name", ALL)
def test_tensors(path: Path, name: str) -> None:
    draft = ALL[name]()
    names = list(draft.tensors)
    # An output layer of its own is added to GGUF files.
    for missing in names if name != "gguf" else names[:-1]:
        draft = ALL[name]()
        del draft.tensors[missing]
        assert "is missing" in problem(path, draft.to_bytes())
    draft.tensors["unknown"] = Tensor((4,), bytes(16))
    assert "'unknown'" in problem(path, draft.to_bytes()) or name == "gguf"
    for renamed in (f"{names[2]}\0", names[2].upper(), names[2][:-1], "", "x" * 300):
        draft = ALL[name]()
        draft.tensors = {renamed if k == names[2] else k: v for k, v in draft.tensors.items()}
        problem(path, draft.to_bytes())


@pytest.mark.parametrize("name", ALL)
def test_shapes_of_tensors(path: Path, name: str) -> None:
    for tensor_name, tensor in ALL[name]().tensors.items():
        shape = tensor.shape
        wrong = [(*shape, 1), shape[::-1], (shape[0] // 2, *shape[1:], 2), (shape[0] + 1,)]
        for other in wrong if len(shape) == 2 else [(*shape, 1), (shape[0] + 1,)]:
            if other != shape:
                draft = ALL[name]()
                draft.tensors[tensor_name] = Tensor(other, tensor.data)
                problem(path, draft.to_bytes())
    draft = ALL[name]()
    first = next(iter(draft.tensors))
    for other in ((-32, -300), (1 << 30, 1 << 30), (0,), ()):
        draft.tensors[first] = Tensor(other, b"")
        if name != "gguf" or min(other, default=0) >= 0:
            problem(path, draft.to_bytes())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [1, 2, 8, 9, 10, 24, 26, 99, -1])
def test_types_of_tensors(path: Path, name: str, kind: int) -> None:
    """The data is as long as the type would have it, so that only the type is wrong."""
    for tensor_name in ALL[name]().tensors:
        draft = ALL[name]()
        tensor = draft.tensors[tensor_name]
        any_type = name in ("ggcc", "gguf") and len(tensor.shape) == 2
        if any_type and kind in (1, 2, 8):
            continue
        size = {1: 2, 2: 18 / 32, 8: 34 / 32, 9: 40 / 32, 10: 84 / 256, 24: 1, 26: 4}.get(kind, 4)
        count = tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) == 2 else 1)
        draft.tensors[tensor_name] = Tensor(
            tensor.shape, bytes(int(count * size)), kind & 0xFFFFFFFF if name == "gguf" else kind
        )
        problem(path, draft.to_bytes())


@pytest.mark.parametrize("name", LEGACY)
def test_doubled_tensors(path: Path, name: str) -> None:
    draft = LEGACY[name]()
    raw = draft.to_bytes()
    last = list(draft.tensors)[-1]
    once = LEGACY[name]()
    del once.tensors[last]
    at = len(once.to_bytes())
    assert f"tensor {last} occurs twice" in problem(path, raw + raw[at:])


def test_words_of_mpt_that_are_not_utf_8(path: Path) -> None:
    for word in (b"\xff", b"\xc3", "Ġ".encode()):
        draft = tiny_mpt()
        draft.words[100] = word
        assert "not UTF-8 of Latin-1" in problem(path, draft.to_bytes())


def test_floats_of_mpt(path: Path) -> None:
    for field in ("alibi_bias_max", "clip_qkv"):
        for value in (float("nan"), float("inf"), -1.0):
            draft = tiny_mpt()
            draft.header[field] = value
            assert field in problem(path, draft.to_bytes())


@pytest.mark.parametrize("n_rot", [0, 1, 3, 10, -2])
def test_rotation_of_neox(path: Path, n_rot: int) -> None:
    draft = tiny_neox()
    draft.header["n_rot"] = n_rot
    assert "n_rot" in problem(path, draft.to_bytes())


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(("wtype", "ftype"), [(6, 8), (7, 9)])
def test_old_quantisations_with_blocks_of_the_same_size(
    path: Path, version: int, wtype: int, ftype: int
) -> None:
    draft = tiny_starcoder(wtype=wtype)
    draft.header["ftype"] = version * 1000 + ftype
    assert f"in version {version} of ggml's quantisation" in problem(path, draft.to_bytes())


@pytest.mark.parametrize("version", [0, 1])
def test_old_quantisations_with_longer_blocks(path: Path, version: int) -> None:
    draft = tiny_starcoder(wtype=2)
    draft.header["ftype"] = version * 1000 + 2
    for name, tensor in draft.tensors.items():
        if tensor.ggml_type == 2:
            # A scale of 32 bits in each block, instead of 16.
            n_blocks = len(tensor.data) // 18
            draft.tensors[name] = replace(tensor, data=bytes(20 * n_blocks))
    assert f"in version {version} of ggml's quantisation" in problem(path, draft.to_bytes())


@pytest.mark.parametrize("ftype", [4, 5, 6, 15, 2004, 2015, 2900, -2000, 3001])
def test_unknown_file_types(path: Path, ftype: int) -> None:
    draft = tiny_starcoder()
    draft.header["ftype"] = ftype
    assert f"file type is {ftype}" in problem(path, draft.to_bytes())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"falcon_type": 8}, "Falcon type is 8"),
        ({"falcon_type": 40}, "unknown tensor"),
        ({"n_head_kv": 3}, "3 key/value heads do not divide 4"),
        ({"n_merges": 2}, "3 merges where 2 are due"),
        ({"n_vocab": 11}, "n_vocab is 11"),
        ({"version": 11}, "version 11"),
    ],
)
def test_numbers_of_falcon(path: Path, change: dict[str, int], said: str) -> None:
    draft = tiny_ggcc()
    draft.header |= change
    assert said in problem(path, draft.to_bytes())


@pytest.mark.parametrize("half", [b"", b"a b", b"\xff"])
def test_merges_of_falcon(path: Path, half: bytes) -> None:
    draft = tiny_ggcc()
    draft.between = struct.pack("<i", 3) + 6 * (struct.pack("<I", len(half)) + half)
    assert "merges" in problem(path, draft.to_bytes())


def test_scores_of_falcon_are_needed(path: Path) -> None:
    draft = tiny_falcon()
    draft.metadata["tokenizer.ggml.scores"] = (9, F32, [0.0] * 299)
    assert "300 tokens, 299 scores" in problem(path, draft.to_bytes())


@pytest.mark.parametrize("name", LEGACY)
def test_too_many_layers(path: Path, name: str) -> None:
    draft = LEGACY[name]()
    draft.header["n_layer"] = 108
    assert "108" in problem(path, draft.to_bytes())
