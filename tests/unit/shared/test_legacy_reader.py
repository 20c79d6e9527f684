"""Tests of telling the layouts of legacy files apart."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ModelFileError
from shared.model.description import Family
from shared.model.inspect import inspect
from tests.gguf_files import Tensor
from tests.legacy_files import LegacyDraft, tiny_mpt, tiny_neox, tiny_starcoder, words_of


def problem(path: Path, draft: LegacyDraft) -> str:
    with pytest.raises(ModelFileError) as caught:
        inspect(draft.write(path))
    return str(caught.value).removeprefix(f"{path}: ")


def draft(
    first_tensor: str, again: bool = False, scored: bool = False, **header: int
) -> LegacyDraft:
    words = words_of()
    return LegacyDraft(
        dict(header),
        words,
        {first_tensor: Tensor((32, 300), bytes(32 * 300 * 4))},
        again=len(words) if again else None,
        scored=scored,
    )


NOT_SERVED: dict[str, LegacyDraft] = {
    "a GPT-J model, which is not supported yet": draft(
        "transformer.wte.weight",
        again=True,
        n_vocab=300, n_ctx=64, n_embd=32, n_head=4, n_layer=2, n_rot=8, ftype=0,
    ),
    "a Replit model, which is not supported yet": draft(
        "transformer.wte.weight",
        scored=True,
        n_embd=32, n_ctx=64, n_head=4, n_layer=2, n_vocab=300, ftype=0,
    ),
    "LLaMA in the oldest GGML format: the engine no longer reads it; take a GGUF": draft(
        "tok_embeddings.weight",
        n_vocab=300, n_embd=32, n_mult=256, n_head=4, n_layer=2, n_rot=8, ftype=0,
    ),
    "Falcon in the oldest GGML format: the engine cannot read it; take a GGUF or ggcc": draft(
        "transformer.word_embeddings.weight",
        n_vocab=300, n_embd=32, n_head=4, n_head_kv=1, n_layer=2, falcon_type=7, ftype=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", NOT_SERVED)
def test_what_is_known_but_not_served(tmp_path: Path, said: str) -> None:
    assert said in problem(tmp_path / "x", NOT_SERVED[said])


@pytest.mark.parametrize(
    ("make", "label"),
    [(tiny_starcoder, "StarCoder or GPT-2"), (tiny_mpt, "MPT"), (tiny_neox, "GPT-NeoX")],
)
def test_a_file_cut_in_its_vocabulary_is_named(
    tmp_path: Path, make: Callable[[], LegacyDraft], label: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(make().to_bytes()[:1500])
    with pytest.raises(ModelFileError, match=f"read as {label}: the file is cut short"):
        inspect(path)


def test_an_unknown_model(tmp_path: Path) -> None:
    unknown = tiny_neox()
    unknown.tensors = {"blocks.0.weight": Tensor((4,), bytes(16))}
    said = problem(tmp_path / "x", unknown)
    assert "of an unknown model; read as GPT-NeoX" in said
    assert "the first tensor is called b'blocks.0.weight'" in said


@pytest.mark.parametrize("make", [tiny_starcoder, tiny_mpt, tiny_neox])
def test_words_may_occur_more_than_once(tmp_path: Path, make: Callable[[], LegacyDraft]) -> None:
    """Converters fill vocabularies up with their last word."""
    one = make()
    one.words[250:] = [b"padding"] * (len(one.words) - 250)
    assert inspect(one.write(tmp_path / "x")).n_vocab == 300


def test_the_first_end_token_counts(tmp_path: Path) -> None:
    one = tiny_neox()
    one.words[0], one.words[40], one.words[90] = b"x", b"<|endoftext|>", b"<|endoftext|>"
    assert inspect(one.write(tmp_path / "x")).eos == 40


def test_tensors_may_come_in_any_order(tmp_path: Path) -> None:
    one = tiny_starcoder(tied=False)
    one.tensors = dict(sorted(one.tensors.items(), reverse=True))
    assert inspect(one.write(tmp_path / "x")).family is Family.STARCODER


@pytest.mark.parametrize(("ftype", "name"), [(0, "F32"), (2000, "F32"), (1000, "F32")])
def test_the_version_counts_for_quantised_weights_only(
    tmp_path: Path, ftype: int, name: str
) -> None:
    one = tiny_starcoder()
    one.header["ftype"] = ftype
    assert inspect(one.write(tmp_path / "x")).quantisation == name


@pytest.mark.parametrize(("wtype", "ftype"), [(2, 2), (3, 3), (8, 7), (10, 10), (14, 14)])
def test_a_version_that_tools_left_away_is_told_by_the_sizes(
    tmp_path: Path, wtype: int, ftype: int
) -> None:
    one = tiny_starcoder(wtype=wtype, n_embd=256, n_layer=1, empty=True)
    assert one.header["ftype"] == 2000 + ftype
    one.header["ftype"] = ftype
    assert inspect(one.write_sparse(tmp_path / "x")).family is Family.STARCODER


@pytest.mark.parametrize(
    ("wtype", "name"),
    [(1, "F16"), (2, "Q4_0"), (3, "Q4_1"), (6, "Q5_0"), (7, "Q5_1"), (8, "Q8_0"), (10, "Q2_K"),
     (11, "Q3_K"), (12, "Q4_K"), (13, "Q5_K"), (14, "Q6_K")],
)  # fmt: skip
def test_types_of_weights(tmp_path: Path, wtype: int, name: str) -> None:
    one = tiny_starcoder(wtype=wtype, n_embd=256, n_layer=1, empty=True)
    assert inspect(one.write_sparse(tmp_path / "x")).quantisation == name
    narrow = tiny_starcoder(wtype=wtype, n_embd=16, n_layer=1, empty=True)
    narrow.write_sparse(tmp_path / "x")
    if wtype > 1:
        with pytest.raises(ModelFileError, match="a width of 16 is no multiple of"):
            inspect(tmp_path / "x")


def test_numbers_are_little_endian(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack(">I6i", 0x67676D6C, 300, 64, 32, 4, 2, 0) + bytes(100))
    with pytest.raises(ModelFileError, match="it begins with b'ggml'"):
        inspect(path)
