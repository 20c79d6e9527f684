"""Tests of the block of memory that the loaders of legacy files reserve."""

from pathlib import Path

import pytest

from shared.binary_reader import BinaryReader
from shared.errors import ModelFileError
from shared.legacy_checks import check_context_size
from shared.model_file import Family

READER = BinaryReader(Path("file"), b"")
FAMILIES = (Family.STARCODER, Family.GPT_NEOX, Family.MPT)


def header(n_embd: int, n_layer: int, n_ctx: int, n_vocab: int) -> dict[str, int]:
    return {
        "n_embd": n_embd, "n_layer": n_layer, "n_ctx": n_ctx, "n_vocab": n_vocab,
        "d_model": n_embd, "n_layers": n_layer, "max_seq_len": n_ctx,
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wtype", [0, 1, 2, 8])
@pytest.mark.parametrize(
    "numbers",
    [
        (2048, 24, 8192, 49152), (6144, 40, 8192, 49152), (768, 12, 1024, 50257),
        (1600, 48, 1024, 50257), (4096, 32, 2048, 50432), (7168, 48, 8192, 50432),
        (6144, 44, 2048, 50432), (32, 1, 1, 1),
    ],
)  # fmt: skip
def test_enough_for_the_models_that_there_are(
    family: Family, wtype: int, numbers: tuple[int, int, int, int]
) -> None:
    check_context_size(READER, family, header(*numbers), wtype)


def test_sums_of_32_bit_floats_can_be_too_small() -> None:
    """A few huge layers, for which the reserve per layer is less than what rounding loses."""
    refused = 0
    for n_embd in range(20_000, 23_000, 64):
        try:
            numbers = header(n_embd, 1, 60_001, 50_001)
            check_context_size(READER, Family.STARCODER, numbers, 0)
        except ModelFileError as error:
            assert "reserve too little memory" in str(error)
            refused += 1
    assert 0 < refused < 47
