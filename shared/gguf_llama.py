"""Checks that a GGUF file of the LLaMA architecture can be given to ctransformers 0.2.27.

Source: ``LLM_ARCH_LLAMA`` in its ``ggml/llama.cpp``.
"""

from shared.gguf import GGUFFile
from shared.gguf_check import Architecture, Shapes
from shared.model_file import Family


def llama_shapes(file: GGUFFile) -> Shapes:
    """Return name and shape of every tensor that a model of the ``llama`` architecture has."""
    n_embd, n_ff = file.n_embd, file.n_ff
    n_embd_kv = n_embd // file.n_head * file.n_head_kv
    shapes: Shapes = {
        "token_embd.weight": (n_embd, file.n_vocab),
        "output_norm.weight": (n_embd,),
        "output.weight": (n_embd, file.n_vocab),
    }
    for layer in range(file.n_layer):
        for name, shape in (
            ("attn_norm", (n_embd,)),
            ("attn_q", (n_embd, n_embd)),
            ("attn_k", (n_embd, n_embd_kv)),
            ("attn_v", (n_embd, n_embd_kv)),
            ("attn_output", (n_embd, n_embd)),
            ("ffn_norm", (n_embd,)),
            ("ffn_gate", (n_embd, n_ff)),
            ("ffn_down", (n_ff, n_embd)),
            ("ffn_up", (n_embd, n_ff)),
        ):
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return shapes


LLAMA = Architecture(Family.LLAMA, "attention.layer_norm_rms_epsilon", llama_shapes)
