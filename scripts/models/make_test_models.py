#!/usr/bin/env python3
"""Makes the small reference models of tests/models: random weights, and what they ought to compute.

Every variant is a model of the transformers library with a tokenizer trained here; the library's
own results are the reference. `tests/models/conversion.py` writes the files for the engine.

The tests do not need this script, only what it has written. To run it:

    pip install "ggml-fastapi[test]" "transformers==5.23.0" "torch==2.13.0" "tokenizers==0.23.3"
    python scripts/models/make_test_models.py [VARIANT ...]

The same versions of these, and of Python, whose library is the training text, give the same files.
"""

import argparse
import itertools
import json
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

# Works from a checkout, too, where nothing is installed.
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.models.family_tokenizers import (  # noqa: E402
    FAMILIES,
    Family,
    make_tokenizer,
    special_texts,
)
from tests.models.conversion import written  # noqa: E402

TARGET = ROOT / "tests" / "models"
N_CTX = 256
N_GREEDY = 32
LOGITS_AT = (0, 7, 31)
"""Before which of the greedy tokens the reference holds the logits."""
LEAST_GAP = 0.02
"""Between the best two logits, so that the engine's rounding cannot exchange them."""

PROMPT = "def mean(values):\n    return sum(values) / len(values)  # 1234 naïve, 日本 🙂\n\n"
SAMPLES = (
    "Hello, world!",
    "  two  spaces\tand tabs\r\n\n\n    next",
    "it's 3.14159 or 1000000, isn't it?",
    "élan Ünïcödé 日本語 — “quotes” 🙂👩‍👩‍👧",
    "for i in range(10):\n        print(f'{i:>3} {i ** 2}')\n",
    "=====----->>>>> a_b::c != d && e",
)
"""Texts whose ids the reference holds, besides each family's special tokens."""


@dataclass(frozen=True)
class Variant:
    """A model."""

    family: str  #: its ``model_type``
    suffixes: tuple[str, ...] = (".bin",)  #: of the files that are made of it
    settings: dict[str, Any] = field(default_factory=dict)  #: of its configuration, besides sizes
    alibi_bias_max: int = 8  #: what MPT's class ought to heed, but does not


def falcon(**settings: Any) -> Variant:
    return Variant("falcon", (".bin", ".gguf"), {"tie_word_embeddings": False, **settings})


def mpt(alibi_bias_max: int = 8, clip_qkv: float | None = None, **settings: Any) -> Variant:
    attention = {"alibi": True, "alibi_bias_max": alibi_bias_max, "clip_qkv": clip_qkv}
    return Variant(
        "mpt", settings={"attn_config": attention, **settings}, alibi_bias_max=alibi_bias_max
    )


VARIANTS = {
    "falcon-7b": falcon(),
    "falcon-40b": falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-tied": falcon(tie_word_embeddings=True),
    # One norm in the new block, another base of positions and epsilon: for GGUF only.
    "falcon-11b": Variant(
        "falcon",
        (".gguf",),
        {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "layer_norm_epsilon": 1e-3,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "tie_word_embeddings": False,
        },
    ),
    "starcoder-mqa": Variant("gpt_bigcode"),
    "starcoder-mha": Variant("gpt_bigcode", settings={"multi_query": False}),
    "starcoder-untied": Variant("gpt_bigcode", settings={"tie_word_embeddings": False}),
    "mpt-alibi8": mpt(),
    "mpt-alibi16": mpt(alibi_bias_max=16),
    "mpt-clip": mpt(clip_qkv=1.0),
    "mpt-6heads": mpt(d_model=96, n_heads=6),
    "gpt2": Variant("gpt2"),
    "neox-parallel": Variant("gpt_neox", settings={"rotary_pct": 0.25}),
    "neox-sequential": Variant(
        "gpt_neox", settings={"rotary_pct": 1.0, "use_parallel_residual": False}
    ),
    "llama-gqa": Variant(
        "llama",
        (".gguf",),
        {"num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 160},
    ),
}
WIDTH, N_HEAD, N_LAYER = 64, 4, 2
GPT2_SIZES = {"n_embd": WIDTH, "n_head": N_HEAD, "n_layer": N_LAYER, "n_positions": N_CTX}
LATER_SIZES = {"hidden_size": WIDTH, "num_attention_heads": N_HEAD, "num_hidden_layers": N_LAYER,
               "max_position_embeddings": N_CTX}  # fmt: skip
SIZES = {
    "gpt2": GPT2_SIZES,
    "gpt_bigcode": GPT2_SIZES,
    "falcon": LATER_SIZES,
    "llama": LATER_SIZES,
    "gpt_neox": {**LATER_SIZES, "intermediate_size": 4 * WIDTH},
    "mpt": {"d_model": WIDTH, "n_heads": N_HEAD, "n_layers": N_LAYER, "max_seq_len": N_CTX},
}


def make_config(variant: Variant, tokenizer: Tokenizer) -> Any:
    """The model's configuration; its vocabulary is padded, as large models' are."""
    ids = {role: tokenizer.token_to_id(FAMILIES[variant.family].settings[f"{role}_token"])
           for role in ("bos", "eos")}  # fmt: skip
    return transformers.AutoConfig.for_model(
        variant.family,
        vocab_size=-(-tokenizer.get_vocab_size() // 32) * 32,
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        **{**SIZES[variant.family], **variant.settings},
    )


def make_model(variant: Variant, tokenizer: Tokenizer, seed: int) -> Any:
    """A model with random weights that survive being stored, as bfloat16 and as 16-bit floats."""
    torch.manual_seed(seed)
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_config(
            make_config(variant, tokenizer)
        ).eval()
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.normal_(1.0 if "bias" not in name else 0.0, 0.1)
            else:
                weight.normal_(0.0, 1.2 * weight.shape[-1] ** -0.5)
            if weight is model.get_output_embeddings().weight:
                weight.mul_(row_scales(tokenizer, weight.shape[0])[:, None])
            rounded = weight.to(storage_type(name)).half().float()
            # What is below the smallest normal number would not survive both roundings.
            weight.copy_(torch.where(rounded.abs() < 2.0**-14, 0.0, rounded))
    return model


def row_scales(tokenizer: Tokenizer, n_rows: int) -> torch.Tensor:
    """Factors that keep out of the text what is no token of it, or no character by itself."""
    scales = torch.full((n_rows,), 0.05)
    added = set(tokenizer.get_added_tokens_decoder())
    for token in set(range(tokenizer.get_vocab_size())) - added:
        text = tokenizer.decode([token]).replace("\n", " ")
        scales[token] = 1.0 if text.isprintable() and "\ufffd" not in text else 0.3
    return scales


def storage_type(name: str) -> torch.dtype:
    """Checkpoints mix the types of floats, as the conversion has to read all of them."""
    if "norm" in name or "ln_" in name:
        return torch.float32
    return torch.bfloat16 if "mlp" in name or "ffn" in name else torch.float16


def reference(model: Any, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """What the model makes of the prompt; None if the engine's rounding could change that."""
    prompt = tokenizer.encode(PROMPT).ids
    ids, rows = list(prompt), []
    with torch.no_grad():
        for _ in range(N_GREEDY):
            rows.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1])
            best = rows[-1].topk(2).values
            if best[0] - best[1] < LEAST_GAP:
                return None
            ids.append(int(rows[-1].argmax()))
    greedy = ids[len(prompt) :]
    special = set(tokenizer.get_added_tokens_decoder()) | {
        *range(tokenizer.get_vocab_size(), 10000)
    }
    text = tokenizer.decode(greedy)
    if special & set(greedy) or len(set(greedy)) < N_GREEDY // 3 or "\ufffd" in text:
        return None
    return {
        "prompt": PROMPT,
        "prompt_ids": prompt,
        "greedy_ids": greedy,
        "greedy_text": text,
        "logits": {str(at): [round(float(x), 5) for x in rows[at]] for at in LOGITS_AT},
    }


def find_model(variant: Variant, tokenizer: Tokenizer) -> tuple[Any, dict[str, Any]]:
    """The model of the first seed whose text leaves no doubt."""
    if variant.family == "mpt":
        heed_alibi_bias_max(variant.alibi_bias_max)
    for seed in itertools.count():
        model = make_model(variant, tokenizer, seed)
        found = reference(model, tokenizer)
        if found is not None:
            return model, {"family": variant.family, "seed": seed, **found}
    raise AssertionError


def heed_alibi_bias_max(most: int) -> None:
    """Make up for MPT's class, which computes with 8 whatever its configuration says."""
    module = transformers.models.mpt.modeling_mpt
    plain = getattr(module, "plain_alibi", module.build_mpt_alibi_tensor)
    module.plain_alibi = plain
    module.build_mpt_alibi_tensor = lambda heads, length, _, device: plain(
        heads, length, most, device
    )


def save(name: str, model: Any, family: Family) -> None:
    """Write the model as a folder, and the folder as the files that the engine reads."""
    folder = TARGET / "hf" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.config.save_pretrained(folder)
    head = model.get_output_embeddings().weight
    tensors = {}
    for key, weight in model.named_parameters():
        if weight is head and model.config.tie_word_embeddings and "head" in key:
            continue
        tensors[key] = weight.detach().to(storage_type(key)).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer_config.json").write_text(json.dumps(family.settings, indent=2) + "\n")
    for suffix in VARIANTS[name].suffixes:
        (TARGET / f"{name}{suffix}").write_bytes(written(name, suffix))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    names = parser.parse_args().variants or list(VARIANTS)
    torch.set_num_threads(1)
    (TARGET / "tokenizers").mkdir(parents=True, exist_ok=True)
    path = TARGET / "references.json"
    references = json.loads(path.read_text()) if path.is_file() else {"models": {}}
    references["versions"] = {
        "python": platform.python_version(),
        **{library.__name__: library.__version__ for library in (tokenizers, torch, transformers)},
    }
    references["texts"] = {}
    for family_name, family in FAMILIES.items():
        tokenizer = make_tokenizer(family)
        file = TARGET / "tokenizers" / f"{family_name}.json"
        tokenizer.save(str(file), pretty=False)
        texts = [PROMPT, *SAMPLES, *special_texts(family)]
        references["texts"][family_name] = [
            {"text": text, "ids": tokenizer.encode(text).ids} for text in texts
        ]
        for name in names:
            if VARIANTS[name].family == family_name:
                model, found = find_model(VARIANTS[name], tokenizer)
                save(name, model, family)
                references["models"][name] = found
                print(name, "seed", found["seed"], repr(found["greedy_text"]))
    path.write_text(json.dumps(references, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
