"""The small model files of the references are what `tests/models/conversion.py` makes of them."""

from pathlib import Path

import pytest

from tests.models.conversion import written
from tests.models.reference import FOLDER, references

FILES = sorted(path for reference in references().values() for path in reference.paths)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_engines_files_are_what_the_folders_hold(path: Path) -> None:
    assert path.parent == FOLDER
    assert written(path.stem, path.suffix) == path.read_bytes()
