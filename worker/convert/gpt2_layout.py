"""The legacy layout that GPT-2 and StarCoder share, of ggml's examples ``gpt-2`` and ``starcoder``.

Hyperparameters, the number of tokens once more, tokens as raw bytes, tensors by TensorFlow's names.
The output layer may be left out; the engine then takes the token embedding.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from worker.convert import ggml_writer
from worker.convert.config import GELU, Config, head_width
from worker.convert.layout import Layout, Request, legacy_file_type
from worker.convert.legacy import read_vocabulary, require_epsilon, require_inner
from worker.convert.source import ModelFolder
from worker.convert.tensors import Tensor, Weight, WeightType, encoded, tensor

_NORMS = {"ln_1": "ln_1", "ln_2": "ln_2"}
_LAYERS = {
    "attn.c_attn": "attn/c_attn",
    "attn.c_proj": "attn/c_proj",
    "mlp.c_fc": "mlp/c_fc",
    "mlp.c_proj": "mlp/c_proj",
}
"""Names of linear layers in checkpoints and in files."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model of this kind.

    Attributes:
        n_vocab: rows of the token embedding.
        n_ctx_train: rows of the position embedding.
        n_embd: width.
        n_head: attention heads.
        head_width: width of each.
        n_layer: transformer blocks.
    """

    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_head: int
    head_width: int
    n_layer: int


TakeLinear = Callable[[str, str], Weight]
"""Takes the weight or bias (second) of a linear layer (first), rows as the file has them."""


def read_shape(config: Config) -> Shape:
    """Read what both families have, and check what the engine takes for granted.

    Raises:
        UsageError: the engine computes something else.
    """
    require_epsilon(config, "layer_norm_epsilon")
    config.require("activation_function", GELU, "gelu_new", "the engine has only GELU")
    config.require("scale_attn_weights", {True}, True, "the engine always scales attention")
    config.require("add_cross_attention", {False}, False, "the engine has only decoders")
    n_embd, n_head = config.count("n_embd"), config.count("n_head")
    require_inner(config, "n_inner", n_embd)
    return Shape(
        n_vocab=config.count("vocab_size"),
        n_ctx_train=config.count("n_positions"),
        n_embd=n_embd,
        n_head=n_head,
        head_width=head_width(config, n_embd, n_head),
        n_layer=config.count("n_layer"),
    )


def assemble(
    folder: ModelFolder,
    request: Request,
    shape: Shape,
    family: str,
    pre: str,
    take_linear: TakeLinear,
) -> Layout:
    """Plan the file.

    Args:
        folder: the source.
        request: what is wanted.
        shape: from `read_shape`.
        family: for people.
        pre: how tokenizers of the family split text, by llama.cpp's name.
        take_linear: knows how the family's checkpoints store linear layers.

    Raises:
        UsageError: the folder is damaged, or holds more than the engine computes.
    """
    n_ctx = request.context(shape.n_ctx_train)
    vocabulary, notes = read_vocabulary(folder, shape.n_vocab, pre)
    tensors = _tensors(folder, request, shape, take_linear)
    folder.weights.finish()
    header = struct.pack(
        "<7i",
        shape.n_vocab,
        n_ctx,
        shape.n_embd,
        shape.n_head,
        shape.n_layer,
        legacy_file_type(request.weight_type),
        shape.n_vocab,
    )
    return Layout(family, ggml_writer.parts(header, vocabulary.tokens, tensors), notes)


def _tensors(
    folder: ModelFolder, request: Request, shape: Shape, take_linear: TakeLinear
) -> list[Tensor]:
    take, n_embd = folder.weights.take, shape.n_embd
    embedding = take("transformer.wte.weight", (shape.n_vocab, n_embd))
    positions = take("transformer.wpe.weight", (shape.n_ctx_train, n_embd))
    head = folder.head(embedding, ("lm_head.weight",), tied_by_default=True)
    weights = {"model/wte": embedding}
    if head is not None:
        weights["model/lm_head"] = head
    for layer in range(shape.n_layer):
        source, target = f"transformer.h.{layer}", f"model/h{layer}"
        for name in _NORMS:
            weights[f"{target}/{name}/g"] = take(f"{source}.{name}.weight", (n_embd,))
            weights[f"{target}/{name}/b"] = take(f"{source}.{name}.bias", (n_embd,))
        for name, file_name in _LAYERS.items():
            weights[f"{target}/{file_name}/w"] = take_linear(f"{source}.{name}", "weight")
            weights[f"{target}/{file_name}/b"] = take_linear(f"{source}.{name}", "bias")
    weights["model/ln_f/g"] = take("transformer.ln_f.weight", (n_embd,))
    weights["model/ln_f/b"] = take("transformer.ln_f.bias", (n_embd,))
    # The engine holds positions as 32-bit floats whatever the type of the file.
    cut = positions.first(request.context(shape.n_ctx_train))
    return [
        *encoded(weights, request.weight_type),
        tensor("model/wpe", cut, WeightType.F32),
    ]
