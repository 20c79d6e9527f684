"""StarCoder, SantaCoder and their kin, in the legacy layout of ggml's example ``starcoder``."""

import numpy as np
from numpy.typing import NDArray

from worker.convert.gpt2_layout import Shape, assemble, read_shape
from worker.convert.layout import Layout, Request
from worker.convert.source import ModelFolder
from worker.convert.tensors import Weight


def layout(folder: ModelFolder, request: Request) -> Layout:
    """Plan the file.

    Raises:
        UsageError: the engine cannot compute this model, or the folder is damaged.
    """
    shape = read_shape(folder.config)
    n_embd = shape.n_embd
    is_shared = folder.config.flag("multi_query", True)
    n_attn = n_embd + 2 * shape.head_width if is_shared else 3 * n_embd
    order = shared_rows(shape) if is_shared else rows_by_kind(shape)
    n_outputs = {"c_attn": n_attn, "c_fc": 4 * n_embd}

    def take_linear(name: str, kind: str) -> Weight:
        n_out = n_outputs.get(name.rpartition(".")[2], n_embd)
        n_in = 4 * n_embd if name.endswith("mlp.c_proj") else n_embd
        size = (n_out,) if kind == "bias" else (n_out, n_in)
        weight = folder.weights.take(f"{name}.{kind}", size)
        return weight.rows(order) if name.endswith("c_attn") else weight

    return assemble(folder, request, shape, "gpt_bigcode", "smollm", take_linear)


def shared_rows(shape: Shape) -> NDArray[np.intp]:
    """Rows of c_attn where all heads share one of keys and values.

    Returns:
        Of (3 * n_embd,): the queries, then the keys and the values, repeated for every head, as the
        engine has no attention with shared heads.
    """
    n_embd, width = shape.n_embd, shape.head_width
    keys = np.arange(n_embd, n_embd + width, dtype=np.intp)
    return np.concatenate(
        [
            np.arange(n_embd, dtype=np.intp),
            np.tile(keys, shape.n_head),
            np.tile(keys + width, shape.n_head),
        ]
    )


def rows_by_kind(shape: Shape) -> NDArray[np.intp]:
    """Rows of c_attn where every head has its own keys and values.

    Returns:
        Of (3 * n_embd,): queries, keys and values; checkpoints have these three head by head.
    """
    rows = np.arange(3 * shape.n_embd, dtype=np.intp)
    return np.ravel(rows.reshape(shape.n_head, 3, shape.head_width).swapaxes(0, 1))
