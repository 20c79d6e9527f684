"""Tests of `inspect`: what it says of sound files of each format, and of files that are none."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ModelFileError, UsageError
from shared.model.description import Family, FileFormat, TokenizerKind
from shared.model.inspect import inspect
from tests.gguf_files import STRING, GGUFDraft, tiny_llama
from tests.legacy_files import (
    END,
    LegacyDraft,
    falcon_words,
    tiny_falcon,
    tiny_ggcc,
    tiny_gpt2,
    tiny_mpt,
    tiny_neox,
    tiny_starcoder,
    words_of,
)

MODELS = Path(__file__).parents[2] / "models"
Draft = LegacyDraft | GGUFDraft
TINY: dict[str, tuple[Callable[[], Draft], Family, FileFormat, int]] = {
    "llama": (tiny_llama, Family.LLAMA, FileFormat.GGUF, 3),
    "llama-spm": (lambda: tiny_llama("spm"), Family.LLAMA, FileFormat.GGUF, 3),
    "falcon": (tiny_falcon, Family.FALCON, FileFormat.GGUF, 2),
    "falcon-ggcc": (tiny_ggcc, Family.FALCON, FileFormat.GGCC, 10),
    "starcoder": (tiny_starcoder, Family.STARCODER, FileFormat.GGML, 0),
    "gpt2": (tiny_gpt2, Family.GPT2, FileFormat.GGML, 0),
    "mpt": (tiny_mpt, Family.MPT, FileFormat.GGML, 0),
    "neox": (tiny_neox, Family.GPT_NEOX, FileFormat.GGML, 0),
}


@pytest.mark.parametrize("name", TINY)
def test_tells_what_a_file_is(tmp_path: Path, name: str) -> None:
    draft, family, file_format, version = TINY[name]
    path = draft().write(tmp_path / "tiny.bin")
    model = inspect(path)
    assert (model.family, model.file_format, model.version) == (family, file_format, version)
    size = model.size
    assert (size.n_embd, size.n_head, size.n_layer, model.quantisation) == (32, 4, 2, "F32")
    assert model.n_bytes == path.stat().st_size
    assert model.n_vocab == len(model.tokens) and model.n_ctx_most == model.n_ctx_train
    assert inspect(str(path), family.value) == model


def test_what_legacy_files_say(tmp_path: Path) -> None:
    model = inspect(tiny_starcoder().write(tmp_path / "My Model.bin"))
    size = model.size
    assert (model.name, size.n_ctx_train, size.n_ff, size.n_head_kv) == ("My Model", 64, 128, 4)
    assert list(model.tokens[:3]) == [END, b"\0", b"\1"] and model.tokens[11] == b"\n"
    assert (model.bos, model.eos, model.add_bos) == (0, 0, None)
    assert model.tokenizer is TokenizerKind.BPE
    assert (model.merges, model.token_types) == (model.pre_tokenizer, model.chat_template)
    assert model.merges is None and model.chat_template is None
    assert not model.needs_rewrite
    first = model.tensors[0]
    assert (first.name, first.shape, first.offset) == ("model/ln_f/g", (32,), 0)


def test_words_of_mpt_are_undone(tmp_path: Path) -> None:
    model = inspect(tiny_mpt(clip=2.5).write(tmp_path / "x"))
    assert list(model.tokens) == words_of()
    assert model.details == {"alibi_bias_max": 8.0, "clip_qkv": 2.5}


def test_no_token_ends_a_text_by_default(tmp_path: Path) -> None:
    draft = tiny_neox(par_res=0)
    draft.words[0] = b"</s>"
    model = inspect(draft.write(tmp_path / "x"))
    assert model.eos is model.bos is None
    assert model.details == {"n_rot": 4, "par_res": 0}


def test_falcon_in_ggcc(tmp_path: Path) -> None:
    draft = tiny_ggcc(falcon_type=40, n_head_kv=2)
    model = inspect(draft.write(tmp_path / "x"))
    assert (model.n_ctx_train, model.size.n_head_kv) == (2048, 2)
    assert model.details == {"falcon_type": 40}
    assert model.merges == [b"h e", b"l l", "Ġ t".encode()]
    assert (model.eos, model.bos) == (11, 11)
    draft.words[11] = b"text"
    assert inspect(draft.write(tmp_path / "x")).eos is None


@pytest.mark.parametrize("two_norms", [False, True])
def test_falcon_in_gguf(tmp_path: Path, two_norms: bool) -> None:
    model = inspect(tiny_falcon(two_norms=two_norms, n_head_kv=2).write(tmp_path / "x"))
    assert list(model.tokens) == falcon_words()
    assert (model.eos, model.bos, model.needs_rewrite) == (11, None, False)
    assert model.merges is not None and model.merges[0] == b"h e"


def test_current_falcon_files_are_to_be_rewritten(tmp_path: Path) -> None:
    old = inspect(tiny_falcon().write(tmp_path / "old"))
    new = inspect(tiny_falcon("letters", tied=True).write(tmp_path / "new"))
    assert new.needs_rewrite and not old.needs_rewrite
    assert new.tokens == old.tokens and new.memory == old.memory


def test_version_1_files(tmp_path: Path) -> None:
    draft = tiny_falcon()
    draft.version = 1
    assert inspect(draft.write(tmp_path / "x")).version == 1
    draft = tiny_falcon("letters")
    draft.version = 1
    with pytest.raises(ModelFileError, match="version 1 cannot be rewritten"):
        inspect(draft.write(tmp_path / "x"))


def test_what_gguf_files_say(tmp_path: Path) -> None:
    model = inspect(tiny_llama("letters").write(tmp_path / "x"))
    assert (model.name, model.pre_tokenizer) == ("Tiny", "smollm")
    assert (model.bos, model.eos, model.add_bos) == (1, 2, False)
    assert model.chat_template is not None and model.token_types is not None
    assert model.needs_rewrite and model.tokens[3] == b"\0"
    assert model.tensors[0].name == "token_embd.weight"
    spm = inspect(tiny_llama("spm").write(tmp_path / "x"))
    assert spm.tokenizer is TokenizerKind.SENTENCEPIECE
    assert spm.merges is None and spm.tokens[259] == "▁".encode() and spm.add_bos is None


def test_starcoder_and_gpt2_are_told_apart_by_their_words(tmp_path: Path) -> None:
    draft = tiny_starcoder()
    draft.words[-1] = b"<fim-prefix>"
    assert inspect(draft.write(tmp_path / "x")).family is Family.STARCODER
    draft.words[-1] = b"2019"
    assert inspect(draft.write(tmp_path / "x")).family is Family.GPT2
    draft.words[-1] = b"a"
    assert inspect(draft.write(tmp_path / "x")).family is Family.STARCODER
    assert inspect(tmp_path / "x", "gpt2").family is Family.GPT2
    assert inspect(tmp_path / "x", "gpt_bigcode").library_type == "starcoder"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("llama", "GGUF"), ("falcon", "gguf"), ("falcon-ggcc", "Falcon"), ("neox", "gpt_neox"),
        ("neox", "dolly-v2"), ("starcoder", "WizardCoder"), ("starcoder", "starchat"),
        ("gpt2", "gpt-2"), ("mpt", "mpt"),
    ],
)  # fmt: skip
def test_expectations_that_are_met(tmp_path: Path, name: str, wanted: str) -> None:
    inspect(TINY[name][0]().write(tmp_path / "x"), wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("mpt", "starcoder"), ("starcoder", "mpt"), ("falcon-ggcc", "gguf"), ("llama", "falcon")],
)
def test_expectations_that_are_not(tmp_path: Path, name: str, wanted: str) -> None:
    path = TINY[name][0]().write(tmp_path / "x")
    with pytest.raises(ModelFileError, match=f"it is a {TINY[name][1].value} model"):
        inspect(path, wanted)


def test_unknown_model_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nonsense' is not known; it can be gguf, llama, falcon"):
        inspect(tmp_path / "x", "nonsense")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "only 0 bytes"),
        (b"abc", "only 3 bytes"),
        (
            b"tjgg" + bytes(40),
            "a model in the old ggjt format (LLaMA, or Falcon before ggcc), which is not "
            "supported; take a GGUF, or for Falcon a ggcc, file of that model",
        ),
        (b"fmgg" + bytes(40), "a model in the old ggmf format (LLaMA, or Falcon before ggcc)"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(8) + b'{"__metadata__":{}}', "safetensors file; llama.cpp's convert_hf_to_gguf.py"),
        (b"whatever", "it begins with b'what'"),
        (b"ccgg" + struct.pack("<I", 9), "version 9 of ggcc files"),
    ],
)
def test_what_is_no_model_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        inspect(path)
    assert said in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read: No such file"):
        inspect(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ModelFileError, match="not a file"):
            inspect(path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("starcoder", "legacy .bin"), ("gptneox", "legacy .bin"), ("qwen2", "only")],
)
def test_other_architectures(tmp_path: Path, name: str, advice: str) -> None:
    draft = tiny_llama()
    draft.metadata["general.architecture"] = (STRING, name)
    with pytest.raises(ModelFileError, match="only llama and falcon GGUF files") as caught:
        inspect(draft.write(tmp_path / "x"))
    assert advice in str(caught.value)


WIDE: dict[str, Callable[..., LegacyDraft]] = {
    "falcon-ggcc": tiny_ggcc,
    "starcoder": tiny_starcoder,
    "mpt": tiny_mpt,
    "neox": tiny_neox,
}


@pytest.mark.parametrize("name", WIDE)
def test_size_costs_nothing(tmp_path: Path, name: str) -> None:
    """65,000 words, and 8 GB of weights that are not looked at."""
    make = WIDE[name]
    draft = make(n_embd=4096, n_head=32, n_layer=24, wtype=1, n_vocab=65_000, empty=True)
    path = draft.write_sparse(tmp_path / "x")
    assert path.stat().st_size > 8e9
    times = []
    for _ in range(3):
        start = time.perf_counter()
        inspect(path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.15
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(ModelFileError, match="cut short: 1 bytes of tensor"):
        inspect(path)


@pytest.mark.parametrize(
    "path",
    sorted([*MODELS.glob("*.bin"), *MODELS.glob("*.gguf")]),
    ids=lambda path: path.name,
)
def test_models_that_are_known_to_load(path: Path) -> None:
    model = inspect(path)
    assert model.family_name.startswith(path.name.split("-")[0].replace("neox", "gpt-neox")[:4])
