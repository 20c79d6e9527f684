"""Tests of what follows from the tensors of a file."""

from shared.model.tensors import TensorInfo, dominant_type


def test_bytes_decide_which_type_dominates() -> None:
    tensors = [TensorInfo(f"norm{n}", (4,), 0, 16 * n, 16) for n in range(9)]
    tensors += [TensorInfo("a", (256,), 2, 144, 144), TensorInfo("b", (32,), 8, 288, 34)]
    assert dominant_type(tensors) == 0
    assert dominant_type(tensors[1:]) == 2
