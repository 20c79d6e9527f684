"""Small models of random weights: every family, and every type of weights, that the engine knows.

They talk nonsense, but evaluating one runs the same code of the library as a real model does.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.model.description import Dimensions, Family
from shared.model.gguf import BYTE_FORM, MERGES, SCORES, TOKEN_FORM, TOKEN_TYPES, TOKENS, TokenType
from shared.model.layouts import FLOAT_FIELDS, LAYOUTS, shapes_of
from shared.model.tensors import F32, FILE_TYPES, FLOAT_MATRICES, TENSOR_TYPES
from worker.convert import ggcc_writer, ggml_writer, gguf_writer
from worker.convert.gguf_writer import Value
from worker.convert.layout import Part
from worker.convert.tensors import Tensor

N_CTX = 128
N_VOCAB = 320
_N_LAYER, _N_HEAD, _N_HEAD_KV = 2, 4, 2
_SPECIAL = [b">>%d<<" % number for number in range(11)] + [b"<|endoftext|>"]
"""What the engine takes the first tokens of a Falcon for."""
_MERGE = ("h", "e")
"""The one merge of the vocabulary: letters of bytes, as files spell them."""
_BLOCKS = {
    "Q4_0": (0, None, 0.0, 4.6), "Q4_1": (0, 2, -7.5, 4.6), "Q5_0": (0, None, 0.0, 9.2),
    "Q5_1": (0, 2, -15.5, 9.2), "Q8_0": (0, None, 0.0, 74.0), "Q2_K": (80, 82, 1.5, 12.0),
    "Q3_K": (108, None, 0.0, 42.0), "Q4_K": (0, 2, 7.5, 170.0), "Q5_K": (0, 2, 15.5, 330.0),
    "Q6_K": (208, None, 0.0, 1370.0),
}  # fmt: skip
"""Per quantised type: where a block has its scale, where its offset, the offset as a part of the
scale that centres random bits, and the standard deviation that these then have, in scales."""
_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_FILE_NUMBERS = {name: number for number, name in FILE_TYPES.items()} | {
    "Q3_K": 12, "Q4_K": 15, "Q5_K": 17
}  # fmt: skip

Shapes = Mapping[str, tuple[int, ...]]
"""Per name of a tensor: its shape, rows first."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A model to be written.

    Attributes:
        family: the architecture.
        weights: the type of its matrices, as ggml calls it.
        ggcc: a Falcon in the format of ggllm.cpp.
        n_embd: width.
        n_layer: blocks.
    """

    family: Family
    weights: str
    ggcc: bool = False
    n_embd: int = 256
    n_layer: int = _N_LAYER

    @property
    def name(self) -> str:
        """What its file is called."""
        suffix = "ggcc" if self.ggcc else "bin"
        if self.family is Family.LLAMA or (self.family is Family.FALCON and not self.ggcc):
            suffix = "gguf"
        return f"{self.family.value}-{self.weights.lower()}.{suffix}"

    @property
    def has_floats(self) -> bool:
        """Whether its weights are floats, and not blocks of integers."""
        return self.weights not in _BLOCKS

    def write(self, folder: Path) -> Path:
        """Write the file into a folder and return its path.

        Raises:
            OSError: it cannot be written.
        """
        if self.family is Family.LLAMA:
            parts = self._llama()
        elif self.family is not Family.FALCON:
            parts = self._legacy()
        else:
            parts = self._falcon_ggcc() if self.ggcc else self._falcon()
        path = folder / self.name
        with path.open("wb") as file:
            for part in parts:
                file.writelines([part] if isinstance(part, bytes) else part.chunks())
        return path

    def _llama(self) -> list[Part]:
        d, n_ff = self.n_embd, 2 * self.n_embd
        d_kv = d // _N_HEAD * _N_HEAD_KV
        block: Shapes = {
            "attn_norm": (d,), "attn_q": (d, d), "attn_k": (d_kv, d), "attn_v": (d_kv, d),
            "attn_output": (d, d), "ffn_norm": (d,), "ffn_gate": (n_ff, d), "ffn_down": (d, n_ff),
            "ffn_up": (n_ff, d),
        }  # fmt: skip
        return self._gguf(n_ff, "attention.layer_norm_rms_epsilon", block, {})

    def _falcon(self) -> list[Part]:
        d, n_ff = self.n_embd, 4 * self.n_embd
        block: Shapes = {
            "attn_norm": (d,), "attn_qkv": (self._n_qkv, d), "attn_output": (d, d),
            "ffn_up": (n_ff, d), "ffn_down": (d, n_ff),
        }  # fmt: skip
        biases: Shapes = {f"blk.{n}.attn_norm.bias": (d,) for n in range(self.n_layer)}
        biases = {"output_norm.bias": (d,), **biases}
        return self._gguf(n_ff, "attention.layer_norm_epsilon", block, biases)

    def _gguf(self, n_ff: int, epsilon: str, block: Shapes, biases: Shapes) -> list[Part]:
        words = _vocabulary()
        numbers: dict[str, Value] = {
            "context_length": N_CTX, "embedding_length": self.n_embd, "feed_forward_length": n_ff,
            "block_count": self.n_layer, "attention.head_count": _N_HEAD,
            "attention.head_count_kv": _N_HEAD_KV, epsilon: 1e-5,
        }  # fmt: skip
        metadata: dict[str, Value] = {
            "general.architecture": self.family.value,
            **{f"{self.family.value}.{key}": value for key, value in numbers.items()},
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            TOKENS: words,
            SCORES: [0.0] * len(words),
            TOKEN_TYPES: [
                int(TokenType.CONTROL if word in _SPECIAL else TokenType.NORMAL) for word in words
            ],
            MERGES: [" ".join(_MERGE).encode()],
            TOKEN_FORM: BYTE_FORM,
        }
        shapes: Shapes = {
            "token_embd.weight": (N_VOCAB, self.n_embd),
            "output_norm.weight": (self.n_embd,),
            "output.weight": (N_VOCAB, self.n_embd),
            **{
                f"blk.{layer}.{name}.weight": shape
                for layer in range(self.n_layer)
                for name, shape in block.items()
            },
            **biases,
        }
        return gguf_writer.parts(metadata, self._tensors(shapes))

    def _falcon_ggcc(self) -> list[Part]:
        d, wide = self.n_embd, 4 * self.n_embd
        shapes: dict[str, tuple[int, ...]] = {
            "transformer.word_embeddings.weight": (N_VOCAB, d),
            "transformer.ln_f.weight": (d,),
            "transformer.ln_f.bias": (d,),
            "lm_head.weight": (N_VOCAB, d),
        }
        for layer in range(self.n_layer):
            for name, shape in (
                ("input_layernorm.weight", (d,)),
                ("input_layernorm.bias", (d,)),
                ("self_attention.query_key_value.weight", (d // _N_HEAD * (_N_HEAD + 2), d)),
                ("self_attention.dense.weight", (d, d)),
                ("mlp.dense_h_to_4h.weight", (wide, d)),
                ("mlp.dense_4h_to_h.weight", (d, wide)),
            ):
                shapes[f"transformer.h.{layer}.{name}"] = shape
        numbers = (N_VOCAB, d, _N_HEAD, 1, self.n_layer, 7, self._file_type)
        return ggcc_writer.parts(numbers, _vocabulary(), [_MERGE], self._tensors(shapes))

    def _legacy(self) -> list[Part]:
        is_gpt2 = self.family is Family.GPT2
        kept_as = Family.STARCODER if is_gpt2 else self.family
        layout = next(one for one in LAYOUTS if one.family is kept_as)
        assert layout.tensors is not None
        d = self.n_embd
        numbers: dict[str, float] = {
            "n_vocab": N_VOCAB, "n_ctx": N_CTX, "n_embd": d, "n_head": _N_HEAD,
            "n_layer": self.n_layer, "alibi_bias_max": 8.0, "clip_qkv": 0.0,
            "n_rot": d // _N_HEAD, "par_res": 1, "ftype": self._file_type,
        }  # fmt: skip
        header = b"".join(
            struct.pack("<f" if name in FLOAT_FIELDS else "<i", numbers[name])
            for name in layout.fields.split()
        )
        if layout.n_vocab_again:
            header += struct.pack("<i", N_VOCAB)
        words = _vocabulary()
        if self.family is Family.MPT:
            # Its reader wants each byte as a letter of Latin-1.
            words = [word.decode("latin-1").encode() for word in words]
        if is_gpt2:
            # Numbers of several digits are what tells it from StarCoder.
            words[-1] = b"10"
        wtype = _NUMBERS[self.weights]
        size = Dimensions(
            n_vocab=N_VOCAB, n_ctx_train=N_CTX, n_embd=d, n_head=_N_HEAD, n_head_kv=_N_HEAD,
            n_layer=self.n_layer, n_ff=4 * d,
        )  # fmt: skip
        tensors = [
            _tensor(
                name,
                shape[::-1],
                F32 if len(shape) == 1 or name in FLOAT_MATRICES else wtype,
            )
            for name, shape in shapes_of(layout.tensors, size).items()
        ]
        return ggml_writer.parts(header, words, tensors)

    @property
    def _n_qkv(self) -> int:
        return self.n_embd // _N_HEAD * (_N_HEAD + 2 * _N_HEAD_KV)

    @property
    def _file_type(self) -> int:
        # In the first layout, ggml's version 2 of quantised blocks stands in the thousands.
        version = 0 if self.has_floats or self.ggcc else 2000
        return _FILE_NUMBERS[self.weights] + version

    def _tensors(self, shapes: Shapes) -> list[Tensor]:
        wtype = _NUMBERS[self.weights]
        return [
            _tensor(name, shape, F32 if len(shape) == 1 else wtype)
            for name, shape in shapes.items()
        ]


def _vocabulary() -> list[bytes]:
    words = [*_SPECIAL, *(bytes([byte]) for byte in range(256)), "".join(_MERGE).encode()]
    return [*words, *(b"word%d" % number for number in range(N_VOCAB - len(words)))]


def _tensor(name: str, shape: tuple[int, ...], ggml_type: int) -> Tensor:
    return Tensor(name, shape, ggml_type, lambda: _values(name, shape, ggml_type))


def _values(name: str, shape: tuple[int, ...], ggml_type: int) -> Iterator[memoryview]:
    """Random weights of a tensor, always the same, by which a normed vector keeps its length."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    count = math.prod(shape)
    kind, block, block_bytes = TENSOR_TYPES[ggml_type]
    is_norm = len(shape) == 1 and name.endswith(("weight", "/g"))
    scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
    if kind in ("F32", "F16"):
        values = rng.standard_normal(count, np.float32) * np.float32(scale) + np.float32(is_norm)
        yield values.astype("<f4" if kind == "F32" else "<f2").data
        return
    at, offset_at, offset, deviation = _BLOCKS[kind]
    n_blocks = count // block
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), np.uint8)
    scales = (scale / deviation * rng.uniform(0.8, 1.2, n_blocks)).astype("<f2")
    blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
    if offset_at is not None:
        offsets = (scales * np.float16(offset)).astype("<f2")
        blocks[:, offset_at : offset_at + 2] = offsets.view(np.uint8).reshape(n_blocks, 2)
    yield blocks.data


SAMPLES = (
    *(Sample(Family.LLAMA, weights) for weights in ("F32", "F16", *_BLOCKS)),
    *(
        Sample(family, weights, ggcc)
        for family, ggcc in (
            (Family.FALCON, False), (Family.FALCON, True), (Family.STARCODER, False),
            (Family.GPT2, False), (Family.MPT, False), (Family.GPT_NEOX, False),
        )
        for weights in ("F16", "Q4_0")
    ),
)  # fmt: skip
"""What the self-test evaluates."""
SPEED = Sample(Family.LLAMA, "Q4_0", n_embd=768, n_layer=4)
"""What its speed is measured with: 24 million weights."""
