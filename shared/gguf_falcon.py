"""Checks that a GGUF file of the Falcon architecture can be given to ctransformers 0.2.27.

Source: ``LLM_ARCH_FALCON`` in its ``ggml/llama.cpp``. Files of 2023 spell their vocabulary in bytes
and load as they are; current ones have to be rewritten first (`shared.gguf_rewrite`).
"""

from shared.gguf import GGUFFile
from shared.gguf_check import Architecture, Shapes
from shared.model_file import Family


def falcon_shapes(file: GGUFFile) -> Shapes:
    """Return name and shape of every tensor of a Falcon model.

    Layers of the larger models (40B) have a second norm; the library goes by what it finds.
    """
    n_embd, n_ff = file.n_embd, file.n_ff
    n_qkv = n_embd // file.n_head * (file.n_head + 2 * file.n_head_kv)
    shapes: Shapes = {
        "token_embd.weight": (n_embd, file.n_vocab),
        "output_norm.weight": (n_embd,),
        "output_norm.bias": (n_embd,),
        "output.weight": (n_embd, file.n_vocab),
    }
    second_norm = is_40b(file)
    for layer in range(file.n_layer):
        for norm in ("attn_norm", "attn_norm_2") if second_norm else ("attn_norm",):
            shapes[f"blk.{layer}.{norm}.weight"] = (n_embd,)
            shapes[f"blk.{layer}.{norm}.bias"] = (n_embd,)
        for name, shape in (
            ("attn_qkv", (n_embd, n_qkv)),
            ("attn_output", (n_embd, n_embd)),
            ("ffn_up", (n_embd, n_ff)),
            ("ffn_down", (n_ff, n_embd)),
        ):
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return shapes


def is_40b(file: GGUFFile) -> bool:
    """Tell whether the layers have two norms."""
    return any(".attn_norm_2." in tensor.name for tensor in file.tensors)


FALCON = Architecture(
    Family.FALCON,
    "attention.layer_norm_epsilon",
    falcon_shapes,
    neutral=(
        ("tensor_data_layout", "jploski", "another order of its attention weights"),
        ("use_parallel_residual", True, "layers one after another"),
    ),
)
