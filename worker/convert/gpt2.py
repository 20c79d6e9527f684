"""GPT-2, in the legacy layout of ggml's example ``gpt-2``."""

from worker.convert.gpt2_layout import assemble, read_shape
from worker.convert.layout import Layout, Request
from worker.convert.source import ModelFolder
from worker.convert.tensors import Weight


def layout(folder: ModelFolder, request: Request) -> Layout:
    """Plan the file.

    Raises:
        UsageError: the engine cannot compute this model, or the folder is damaged.
    """
    config = folder.config
    for key in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        config.require(key, {False}, False, "the engine computes attention in the plain way")
    shape = read_shape(config)
    n_embd = shape.n_embd
    n_outputs = {"c_attn": 3 * n_embd, "c_fc": 4 * n_embd}

    def take_linear(name: str, kind: str) -> Weight:
        n_out = n_outputs.get(name.rpartition(".")[2], n_embd)
        n_in = 4 * n_embd if name.endswith("mlp.c_proj") else n_embd
        if kind == "bias":
            return folder.weights.take(f"{name}.bias", (n_out,))
        # Checkpoints of GPT-2 have inputs by outputs (TensorFlow's convolutions).
        return folder.weights.take(f"{name}.weight", (n_in, n_out)).transposed

    return assemble(folder, request, shape, "gpt2", "gpt-2", take_linear)
