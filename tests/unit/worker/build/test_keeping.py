"""What a build puts into the cache is whole, and a failure leaves what was there."""

import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.model.library import (
    RECIPE,
    Cpu,
    Record,
    engine_version,
    find,
    library_path,
    record_path,
)
from worker.build.command import keep

OLD, NEW = b"old" * 100, b"new" * 10_000


def record_of(content: bytes) -> Record:
    cpu = Cpu.here()
    sha256 = hashlib.sha256(content).hexdigest()
    return Record(RECIPE, engine_version(), cpu.name, cpu.digest, "c++", "-O3", "avx2", 0.0, sha256)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A cache's library, with an old one there."""
    path = library_path(tmp_path, engine_version(), Cpu.here())
    path.parent.mkdir()
    path.write_bytes(OLD)
    record_path(path).write_bytes(record_of(OLD).to_json())
    return path


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A new library, as the compiler leaves it."""
    path = tmp_path / "built.so"
    path.write_bytes(NEW)
    return path


def kept(target: Path) -> bytes:
    """The sound library in the cache, and that nothing else is there."""
    assert find(target.parents[1], engine_version(), Cpu.here()) == target
    assert set(target.parent.iterdir()) == {target, record_path(target)}
    return target.read_bytes()


@contextmanager
def longest_file(n_bytes: int) -> Iterator[None]:
    """Refuse to write files longer than that, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_takes_the_place_of_an_older_one(target: Path, built: Path) -> None:
    keep(built, record_of(NEW), target)
    assert kept(target) == NEW


@pytest.mark.parametrize("n_bytes", [10, 10_000])
def test_a_full_disk_leaves_the_older_one(target: Path, built: Path, n_bytes: int) -> None:
    """There is no room for the record, or for the library."""
    assert n_bytes < len(NEW)
    with pytest.raises(UsageError, match="cannot be written"), longest_file(n_bytes):
        keep(built, record_of(NEW), target)
    assert kept(target) == OLD
