"""Files and folders that MODEL_NAME and MODEL_FILE lead to."""

import os
from pathlib import Path

import pytest

from gateway import demo_model
from gateway.hub import resolve, servable
from shared.errors import ModelFileError, UsageError
from shared.model.description import Family
from shared.model.gguf_check import check_gguf
from shared.model.gguf_reader import read_gguf
from tests.gguf_files import tiny_llama
from tests.gguf_kinds import tiny, write_split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own cache out of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ggml-fastapi"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def found(name: str | None, file: str | None = None) -> tuple[Path, str]:
    """Path and name of the model that these lead to."""
    source = resolve(name, file)
    return source.file.path, source.name


def refusal(name: str | None, file: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(name, file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_llama("spm").write(folder / "tiny.Q4_0.gguf")
    assert found(str(path)) == (path, "tiny.Q4_0")
    assert found(str(path), "tiny.Q4_0.gguf") == (path, "tiny.Q4_0")
    assert "MODEL_FILE=other.gguf has no meaning" in refusal(str(path), "other.gguf")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert found("tiny.Q4_0.gguf")[0] == Path("tiny.Q4_0.gguf")
    assert found("~/tiny.Q4_0.gguf")[0] == path
    # A folder here wins over the hub.
    (folder / "owner" / "one").mkdir(parents=True)
    mine = tiny_llama("spm").write(Path("owner/one/mine.gguf"))
    assert found("owner/one") == (mine, "mine")


def test_a_folder_with_one_model_and_its_tokenizer(folder: Path) -> None:
    path = tiny_llama("spm").write(folder / "tiny.gguf")
    for other in ("README.md", "old.bin", "pytorch_model-00001-of-00002.bin"):
        (folder / other).touch()
    assert found(str(folder)) == (path, "tiny")
    assert resolve(str(path)).tokenizer is None
    (folder / "tokenizer.json").touch()
    for name in (path, folder):
        assert resolve(str(name)).tokenizer == folder / "tokenizer.json"


def test_a_folder_with_a_model_in_several_files(folder: Path) -> None:
    first, second = write_split(tiny("qwen3"), folder, 2, "tiny-Q4_1")
    (folder / "mmproj-tiny-F16.gguf").touch()
    assert found(str(folder)) == (first, "tiny-Q4_1")
    assert "not the first part of its model; name tiny-Q4_1-00001-of-" in refusal(str(second))
    second.unlink()
    assert "00002-of-00002.gguf: this part of the model is missing" in refusal(str(folder))


def test_a_folder_with_several_models(folder: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        tiny_llama("spm").write(folder / name)
    (folder / "old.bin").touch()
    (folder / "sub").mkdir()
    inner = tiny_llama("spm").write(folder / "sub" / "c.gguf")
    assert refusal(str(folder)).endswith(
        "holds several models; pick one with MODEL_FILE: a.gguf, b.gguf, old.bin"
    )
    assert found(str(folder), "b.gguf") == (folder / "b.gguf", "b")
    assert found(str(folder), "sub/c.gguf") == (inner, "c")
    assert "is not in the folder" in refusal(str(folder), "sub")
    assert refusal(str(folder), "x.gguf").endswith("found there: a.gguf, b.gguf, old.bin")
    for index in range(30):
        (folder / f"{index:02}.gguf").touch()
    assert "29.gguf, a.gguf, b.gguf, old.bin" in refusal(str(folder))


@pytest.mark.parametrize(
    ("names", "end"),
    [
        ([], "holds no model file (*.gguf, *.bin, *.ggml); found there: nothing"),
        (["notes.txt"], "found there: notes.txt"),
        (["pytorch_model.bin"], "found there: pytorch_model.bin"),
        ([f"{index:02}.txt" for index in range(30)], "18.txt, 19.txt and 10 more"),
        (["config.json", "model-00001-of-00002.safetensors"], "llama.cpp's convert_hf_to_gguf.py"),
    ],
)
def test_a_folder_without_a_model(folder: Path, names: list[str], end: str) -> None:
    for name in names:
        (folder / name).touch()
    assert refusal(str(folder)).endswith(end)


@pytest.mark.parametrize("file", ["../x.gguf", "/etc/passwd", "a/../../x.gguf", ".."])
def test_a_file_outside_is_refused(folder: Path, file: str) -> None:
    assert "path inside" in refusal(str(folder), file)
    assert "path inside" in refusal("owner/name", file)


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/file", "missing.gguf", "models/missing.gguf", "missing.bin", "./missing", "a/b/c",
        "a b", "http://host/file", "x" * 5000, "nul\0", "-option",
    ],
)  # fmt: skip
def test_names_that_are_nothing(name: str) -> None:
    assert "no such file or folder" in refusal(name)


def test_no_name_means_the_demo_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = tiny_llama().write(folder / "demo.gguf")
    monkeypatch.setattr(demo_model, "fetch", lambda: demo)
    for name in (None, ""):
        assert found(name) == (demo, "SmolLM2-135M-Instruct")
        assert resolve(name).file_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
        assert "MODEL_NAME is not set" in refusal(name, "x.gguf")


def test_legacy_and_broken_files(folder: Path) -> None:
    draft = tiny_llama("spm")
    draft.metadata["general.architecture"] = (8, "bert")
    for content, said in (
        (b"tjgg" + bytes(100), "ggjt"),
        (tiny_llama("spm").to_bytes()[:-5], "5 of"),
        (draft.to_bytes(), "bert.embedding_length should be"),
    ):
        (folder / "model.bin").write_bytes(content)
        assert said in refusal(str(folder), "model.bin")


@pytest.mark.skipif(os.geteuid() == 0, reason="this user may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    path = tiny_llama("spm").write(folder / "tiny.gguf")
    path.chmod(0)
    assert str(path) in refusal(str(path))


def test_a_model_type_that_the_file_is_not(folder: Path) -> None:
    path = str(tiny_llama("spm").write(folder / "tiny.gguf"))
    for right in ("llama", "gguf", None):
        assert resolve(path, None, right).file.family is Family.LLAMA
    with pytest.raises(ModelFileError, match="llama"):
        resolve(path, None, "mpt")


def test_a_current_bpe_file_is_rewritten_once_for_ctransformers(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_llama("letters").write(folder / "tiny.gguf")
    assert resolve(str(path)).file.path == path
    assert capfd.readouterr().err == ""
    first = resolve(str(path), engine="ctransformers")
    assert "Rewriting tiny.gguf for the engine, only once: 100 %" in capfd.readouterr().err
    assert (first.name, first.file_name, first.file.path.parent) == ("tiny", "tiny.gguf", cache)
    check_gguf(read_gguf(first.file.path))
    assert resolve(str(path), engine="ctransformers") == first
    assert capfd.readouterr().err == ""
    # Another file under the same name is another model.
    tiny_llama("letters", seed=2).write(path)
    os.utime(path, ns=(1, 1))
    assert servable(path, engine="ctransformers").path != first.file.path
    assert not list(cache.glob("tmp-*"))


def test_what_cannot_be_rewritten_leaves_nothing(folder: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.touch()
    path = tiny_llama("letters").write(folder / "tiny.gguf")
    with pytest.raises(UsageError, match="cannot keep a model in the cache folder"):
        resolve(str(path), engine="ctransformers")
    cache.unlink()
    draft = tiny_llama("letters")
    del draft.tensors["blk.0.ffn_up.weight"]
    with pytest.raises(ModelFileError, match=r"blk\.0\.ffn_up\.weight is missing"):
        servable(draft.write(folder / "cut.gguf"), engine="ctransformers")
    assert not list(cache.glob("*.gguf")) and not list(cache.glob("tmp-*"))
