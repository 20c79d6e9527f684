"""The model files that scripts make: small ones of the references, large ones of random weights."""

from pathlib import Path

import pytest

from scripts.models.synthetic import SPECIAL, make_vocabulary, plan, write
from shared.model.byte_level import bytes_of
from shared.model.inspect import inspect
from tests.models.conversion import written
from tests.models.reference import FOLDER, references

FILES = sorted(path for reference in references().values() for path in reference.paths)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_engines_files_are_what_the_folders_hold(path: Path) -> None:
    assert path.parent == FOLDER
    assert written(path.stem, path.suffix) == path.read_bytes()


@pytest.mark.parametrize("family", SPECIAL)
def test_a_large_file_is_what_it_says(tmp_path: Path, family: str) -> None:
    target = tmp_path / "m.bin"
    n_bytes = write(plan(family, "100m", "q4_0"), target)
    model = inspect(target)
    assert (model.family_name, model.quantisation, model.n_bytes) == (family, "Q4_0", n_bytes)
    assert (model.size.n_embd, model.size.n_head, model.size.n_layer) == (768, 12, 8)


@pytest.mark.parametrize("family", SPECIAL)
def test_vocabularies_are_in_merge_order(family: str) -> None:
    words, merges = make_vocabulary(family, 3000)
    first, last = SPECIAL[family]
    assert len(words) == len(set(words)) == 3000
    assert words[: len(first)] == [text.encode() for text in first]
    assert words[3000 - len(last) :] == [text.encode() for text in last]
    products = [words.index(bytes_of(left + right) or b"") for left, right in merges]
    assert products == sorted(products) and len(products) == 3000 - 256 - len(first) - len(last)
