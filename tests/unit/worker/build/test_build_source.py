"""Tests of getting the source of ctransformers."""

import tarfile
from pathlib import Path

import pytest

from shared.errors import EngineError, UsageError
from worker.build.source import unpacked_source

FILES = ("CMakeLists.txt", "models/llm.cc", "models/ggml/ggml.c")


def draft(folder: Path, name: str = "ctransformers", version: str = "0.2.27") -> Path:
    """A folder with what is looked at in a source distribution."""
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("\n")
    (folder / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def packed(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, folder.name)
    return target


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_a_folder_is_used_as_it_is(tmp_path: Path, scratch: Path) -> None:
    folder = draft(tmp_path / "source")
    assert unpacked_source(folder, "0.2.27", scratch) == folder


def test_an_archive_is_unpacked(tmp_path: Path, scratch: Path) -> None:
    archive = packed(draft(tmp_path / "ctransformers-0.2.27"), tmp_path / "a.tar.gz")
    folder = unpacked_source(archive, "0.2.27", scratch)
    assert folder.is_relative_to(scratch)
    assert (folder / FILES[0]).is_file()


def test_no_such_file(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(UsageError, match=r"--source .*missing: no such file or folder"):
        unpacked_source(tmp_path / "missing", "0.2.27", scratch)


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("ctransformers", "0.2.26", "is ctransformers 0.2.26, and ctransformers 0.2.27"),
        ("transformers", "0.2.27", "is transformers 0.2.27, and ctransformers 0.2.27"),
    ],
)
def test_another_version_or_package(
    tmp_path: Path, scratch: Path, name: str, version: str, said: str
) -> None:
    folder = draft(tmp_path / "source", name, version)
    for given in (folder, packed(folder, tmp_path / "a.tar.gz")):
        with pytest.raises(EngineError, match=said):
            unpacked_source(given, "0.2.27", scratch)
        for left in scratch.iterdir():
            left.rename(tmp_path / f"left-{left.name}")


@pytest.mark.parametrize("file", ["PKG-INFO", *FILES])
def test_a_part_is_missing(tmp_path: Path, scratch: Path, file: str) -> None:
    folder = draft(tmp_path / "source")
    (folder / file).unlink()
    with pytest.raises(EngineError, match=rf"source: not .*{file}"):
        unpacked_source(folder, "0.2.27", scratch)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a tar file", b"\x1f\x8b\x08"])
def test_no_archive(tmp_path: Path, scratch: Path, content: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"a\.tar\.gz: not a source distribution"):
        unpacked_source(path, "0.2.27", scratch)
