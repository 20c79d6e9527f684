"""The script that makes large models of random weights."""

from pathlib import Path

import pytest

from scripts.models.synthetic import SIZES, SPECIAL, make_tokenizer, plan
from shared.model.inspect import inspect
from worker.convert.output import write
from worker.convert.tensors import WeightType


def test_a_file_is_what_it_says(tmp_path: Path) -> None:
    layout = plan("starcoder", "100m", WeightType.Q4_0)
    target = tmp_path / "m.bin"
    write(layout, target, inspect, lambda n_bytes: None)
    found = inspect(target)
    assert (found.family.value, found.quantisation) == ("starcoder", "Q4_0")
    assert (found.n_vocab, found.n_ctx_train) == (49_152, 2048)
    assert (found.size.n_embd, found.size.n_head, found.size.n_layer) == (768, 12, 8)
    assert found.n_bytes == layout.n_bytes == target.stat().st_size


@pytest.mark.parametrize("family", SPECIAL)
def test_a_billion_parameters(family: str) -> None:
    """Half a byte for each and a scale for every 32; planning one takes no memory."""
    assert SIZES["1b"][family].n_embd == 2048
    assert 600e6 < plan(family, "1b", WeightType.Q4_0).n_bytes < 800e6


def test_vocabularies_are_in_merge_order() -> None:
    tokenizer = make_tokenizer("mpt", 3000)
    vocabulary, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    ids = sorted({*vocabulary.values(), *(entry["id"] for entry in added)})
    assert ids == list(range(3000))
    products = [vocabulary[left + right] for left, right in tokenizer["model"]["merges"]]
    assert products == sorted(set(products))
    assert [vocabulary[text] for text in SPECIAL["mpt"][0]] == [0, 1]
    assert [entry["id"] for entry in added if not entry["special"]] == list(range(2977, 3000))
