"""Tests of the names of model families."""

import pytest

from shared.errors import UsageError
from shared.model.description import Family, family_named


@pytest.mark.parametrize("family", Family)
def test_every_family_has_its_own_name(family: Family) -> None:
    assert family_named(family.value) is family
    assert family_named(family.value.upper().replace("-", "_")) is family


def test_gguf_is_any_family() -> None:
    assert family_named("GGUF") is None


@pytest.mark.parametrize("name", ["", "llama3x", "auto", "gpt"])
def test_others_are_not_known(name: str) -> None:
    with pytest.raises(UsageError, match="it can be gguf, llama, falcon, starcoder, mpt, gpt2"):
        family_named(name)
