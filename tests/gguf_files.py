"""Writes small GGUF files: a whole model of the LLaMA family in a few hundred kilobytes.

`tiny_llama` builds the description of one, which a test may change before `GGUFDraft.write`.
Its weights are random (always the same), so it talks nonsense, but both engines load it.
"""

import math
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9
_FORMS = {0: "B", 1: "b", U16: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", 10: "Q",
          11: "q", 12: "d"}  # fmt: skip

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MERGED = (
    "h e", "l l", "i n", "Ġ t", "Ġt he", "o n", "Ġ a", "r e", "he ll", "hell o", "Ġ hello",
    "e r", "o r", "w or", "wor l", "worl d", "Ġ world", "a t", "Ġ c", "Ġc at", "e s", "i t",
    "Ċ Ċ", "Ã ©", "Ġ Ġ", "ĠĠ ĠĠ", "t h", "n d", "Ġa nd", "in g", "e n", "Ġ s", "Ġs at",
)  # fmt: skip


@dataclass
class Tensor:
    shape: tuple[int, ...]
    data: bytes
    ggml_type: int = 0


@dataclass
class GGUFDraft:
    """What a file will hold."""

    #: per key ``(type, value)``, or ``(ARRAY, item type, values)``
    metadata: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    version: int = 3
    alignment: int = 32

    def to_bytes(self) -> bytes:
        # Version 1 has counts, lengths and dimensions of 32 bits.
        size = "I" if self.version == 1 else "Q"
        counts = struct.pack(f"<I2{size}", self.version, len(self.tensors), len(self.metadata))
        parts = [b"GGUF", counts]
        for key, value in self.metadata.items():
            parts.append(string(key, size) + _value(size, *value))
        offset = 0
        blobs = []
        for name, tensor in self.tensors.items():
            parts.append(string(name, size) + struct.pack("<I", len(tensor.shape)))
            parts.append(struct.pack(f"<{len(tensor.shape)}{size}", *tensor.shape))
            parts.append(struct.pack("<IQ", tensor.ggml_type, offset))
            blobs.append(tensor.data + b"\0" * (-len(tensor.data) % self.alignment))
            offset += len(blobs[-1])
        header = b"".join(parts)
        return header + b"\0" * (-len(header) % self.alignment) + b"".join(blobs)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def random_q4_1(source: random.Random, shape: tuple[int, ...], scale: float = 0.06) -> Tensor:
    """A matrix of type Q4_1, of whose rows 4.6 ``scale`` is the standard deviation.

    For this type llama.cpp has one kernel, however many rows there are: logits do not depend on
    what is evaluated together.
    """
    # Blocks of 32: a scale and the least value, then 4 bits for each.
    head = struct.pack("<2e", scale, -7.5 * scale)
    blocks = (head + source.randbytes(16) for _ in range(math.prod(shape) // 32))
    return Tensor(shape, b"".join(blocks), ggml_type=3)


def string(value: str | bytes, size: str = "Q") -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(f"<{size}", len(raw)) + raw


def _value(size: str, kind: int, *value: Any) -> bytes:
    if kind == STRING:
        return struct.pack("<I", kind) + string(value[0], size)
    if kind == ARRAY:
        item_type, items = value
        head = struct.pack(f"<II{size}", kind, item_type, len(items))
        if item_type == STRING:
            return head + b"".join(string(item, size) for item in items)
        return head + struct.pack(f"<{len(items)}{_FORMS[item_type]}", *items)
    return struct.pack(f"<I{_FORMS[kind]}", kind, value[0])


def byte_letters() -> list[str]:
    """GPT-2's letter for each of the 256 bytes."""
    letters, following = [], 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            letters.append(chr(byte))
        else:
            letters.append(chr(following))
            following += 1
    return letters


def bpe_words() -> list[bytes]:
    """The 256 bytes and some words made of them."""
    letters = byte_letters()
    merged = (merge.replace(" ", "") for merge in _MERGED)
    return [bytes(letters.index(letter) for letter in word) for word in (*letters, *merged)]


def bpe_metadata(tokens: list[bytes], form: str, n_special: int) -> dict[str, tuple[Any, ...]]:
    """The metadata of a byte-level vocabulary, in ``bytes`` or in ``letters``."""
    letters = byte_letters()
    kinds = [3 if index < n_special else 1 for index in range(len(tokens))]
    if form == "letters":
        tokens = [
            token if kind == 3 else "".join(letters[byte] for byte in token).encode()
            for token, kind in zip(tokens, kinds, strict=True)
        ]
    return {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.tokens": (ARRAY, STRING, tokens),
        "tokenizer.ggml.token_type": (ARRAY, I32, kinds),
        "tokenizer.ggml.merges": (ARRAY, STRING, list(_MERGED)),
    }


def tiny_llama(
    form: str = "letters", *, n_layer: int = 2, n_embd: int = 32, n_head: int = 4,
    n_head_kv: int = 2, n_ff: int = 64, n_ctx: int = 512, tied: bool | None = None, seed: int = 1,
) -> GGUFDraft:  # fmt: skip
    """A small model with random weights.

    Its vocabulary is BPE in ``letters`` as current files have it, or in ``bytes`` as
    `shared.model.gguf_rewrite` writes it, or SentencePiece: ``spm``. A tied one, as by default that
    in letters, has no ``output.weight``.
    """
    draft = GGUFDraft()
    draft.metadata = {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "Tiny"),
        "general.file_type": (U32, 0),
        "llama.context_length": (U32, n_ctx),
        "llama.embedding_length": (U32, n_embd),
        "llama.feed_forward_length": (U32, n_ff),
        "llama.block_count": (U32, n_layer),
        "llama.attention.head_count": (U32, n_head),
        "llama.attention.head_count_kv": (U32, n_head_kv),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.dimension_count": (U32, n_embd // n_head),
        "llama.rope.freq_base": (F32, 10000.0),
        **(_spm() if form == "spm" else _bpe(form)),
        "tokenizer.chat_template": (STRING, CHAT_TEMPLATE),
    }
    n_vocab = len(draft.metadata["tokenizer.ggml.tokens"][2])
    source = random.Random(seed)

    def weights(*shape: int) -> Tensor:
        count = shape[0] * shape[1]
        values = (source.gauss(0, 0.3) for _ in range(count))
        return Tensor(shape, struct.pack(f"<{count}f", *values))

    norm = Tensor((n_embd,), struct.pack(f"<{n_embd}f", *[1.0] * n_embd))
    n_embd_kv = n_embd // n_head * n_head_kv
    draft.tensors["token_embd.weight"] = weights(n_embd, n_vocab)
    for layer in range(n_layer):
        for name, tensor in {
            "attn_norm": norm,
            "attn_q": weights(n_embd, n_embd),
            "attn_k": weights(n_embd, n_embd_kv),
            "attn_v": weights(n_embd, n_embd_kv),
            "attn_output": weights(n_embd, n_embd),
            "ffn_norm": norm,
            "ffn_gate": weights(n_embd, n_ff),
            "ffn_down": weights(n_ff, n_embd),
            "ffn_up": weights(n_embd, n_ff),
        }.items():
            draft.tensors[f"blk.{layer}.{name}.weight"] = tensor
    draft.tensors["output_norm.weight"] = norm
    if not (form == "letters" if tied is None else tied):
        draft.tensors["output.weight"] = weights(n_embd, n_vocab)
    return draft


def _bpe(form: str) -> dict[str, tuple[Any, ...]]:
    tokens = [*(text.encode() for text in CONTROL_TOKENS), *bpe_words()]
    metadata = {
        **bpe_metadata(tokens, form, n_special=len(CONTROL_TOKENS)),
        "tokenizer.ggml.pre": (STRING, "smollm"),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.ggml.unknown_token_id": (U32, 0),
        "tokenizer.ggml.padding_token_id": (U32, 2),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
    }
    if form == "bytes":
        metadata["tokenizer.ggml.scores"] = (ARRAY, F32, [0.0] * len(tokens))
        metadata["ggml_fastapi.token_form"] = (STRING, "bytes")
    return metadata


def _spm() -> dict[str, tuple[Any, ...]]:
    words = ["▁", "e", "t", "h", "▁t", "he", "▁the", "l", "o", "ll", "lo", "hello", "▁hello"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [2, 3, 3] + [6] * 256 + [1] * len(words)
    scores = [0.0] * 259 + [-float(index) for index in range(len(words))]
    return {
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, STRING, tokens),
        "tokenizer.ggml.scores": (ARRAY, F32, scores),
        "tokenizer.ggml.token_type": (ARRAY, I32, types),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.ggml.unknown_token_id": (U32, 0),
    }
