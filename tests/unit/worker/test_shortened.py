"""Tests of the pipe that brings the library a model with a shorter context."""

import threading
from pathlib import Path

import pytest

from shared.errors import EngineError
from shared.model.description import ModelFile
from shared.model.inspect import inspect
from worker.engines.shortened import shortened

MODELS = Path(__file__).parents[2] / "models"
IGNORANT = ("starcoder-mqa", "starcoder-untied", "gpt2", "neox-parallel")


def read_as_the_library_does(path: str) -> bytes:
    with open(path, "rb") as file:
        assert file.read(4) == b"lmgg"
    with open(path, "rb", buffering=1000) as file:
        return file.read()


def tensor_data(file: ModelFile) -> dict[str, bytes]:
    content = file.path.read_bytes()
    start = len(content) - file.tensors[-1].offset - file.tensors[-1].n_bytes
    places = {tensor.name: (start + tensor.offset, tensor.n_bytes) for tensor in file.tensors}
    return {name: content[at : at + n_bytes] for name, (at, n_bytes) in places.items()}


@pytest.mark.parametrize("name", IGNORANT)
@pytest.mark.parametrize("n_ctx", [1, 100, 255])
def test_what_comes_through_is_a_model_with_that_context(
    name: str, n_ctx: int, tmp_path: Path
) -> None:
    file = inspect(MODELS / f"{name}.bin")
    with shortened(file, n_ctx) as path:
        content = read_as_the_library_does(path)
    (tmp_path / "short.bin").write_bytes(content)
    short = inspect(tmp_path / "short.bin", file.family_name)
    assert short.n_ctx_train == n_ctx
    assert short.tokens == file.tokens
    original, shortened_data = tensor_data(file), tensor_data(short)
    for tensor in short.tensors:
        data = shortened_data[tensor.name]
        assert data == original[tensor.name][: len(data)]
    cut = file.n_bytes - len(content)
    assert cut == sum((256 - n_ctx) * 64 * 4 for t in file.tensors if t.name == "model/wpe")
    assert not Path(path).exists()


@pytest.mark.parametrize("name", ["mpt-clip.bin", "falcon-7b.bin", "llama-gqa.gguf"])
def test_a_family_that_obeys_gets_its_file(name: str) -> None:
    file = inspect(MODELS / name)
    with shortened(file, 100) as path:
        assert path == str(file.path)


def test_the_whole_context_needs_no_pipe() -> None:
    file = inspect(MODELS / "gpt2.bin")
    with shortened(file, 256) as path:
        assert path == str(file.path)


@pytest.mark.parametrize("n_bytes", [0, 4, 1000])
def test_a_reader_that_gives_up(n_bytes: int) -> None:
    file = inspect(MODELS / "gpt2.bin")
    with (
        pytest.raises(EngineError, match="has not read all of it"),
        shortened(file, 100) as path,
        open(path, "rb", buffering=0) as pipe,
    ):
        assert len(pipe.read(n_bytes)) <= n_bytes
    assert "shortened" not in {thread.name for thread in threading.enumerate()}


def test_an_error_of_the_reader_goes_before() -> None:
    file = inspect(MODELS / "gpt2.bin")
    with pytest.raises(ZeroDivisionError), shortened(file, 100):
        _ = 1 / 0


def test_a_file_that_got_shorter(tmp_path: Path) -> None:
    copy = tmp_path / "gpt2.bin"
    copy.write_bytes((MODELS / "gpt2.bin").read_bytes())
    file = inspect(copy)
    copy.write_bytes(copy.read_bytes()[: file.n_bytes // 2])
    with pytest.raises(EngineError, match="it got shorter"), shortened(file, 100) as path:
        read_as_the_library_does(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    copy = tmp_path / "gpt2.bin"
    copy.write_bytes((MODELS / "gpt2.bin").read_bytes())
    file = inspect(copy)
    copy.write_bytes(copy.read_bytes()[:6])
    # Nothing is left to be sent when the library opens the pipe for the second time.
    with pytest.raises(EngineError, match="it got shorter"), shortened(file, 100) as path:
        read_as_the_library_does(path)
    copy.unlink()
    with pytest.raises(EngineError, match="No such file"), shortened(file, 100):
        pass
    assert "shortened" not in {thread.name for thread in threading.enumerate()}
