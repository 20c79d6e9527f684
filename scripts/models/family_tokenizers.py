"""Small tokenizers in the manner of each model family, for `make_test_models`."""

import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre
from tokenizers.trainers import BpeTrainer

from shared.model.byte_level import LETTERS

FALCON_SPECIAL = (
    ">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<", ">>COMMENT<<", ">>ANSWER<<",
    ">>QUESTION<<", ">>DOMAIN<<", ">>PREFIX<<", ">>SUFFIX<<", ">>MIDDLE<<", "<|endoftext|>",
)  # fmt: skip
STARCODER_SPECIAL = (
    "<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>",
    "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>", "<commit_before>",
    "<commit_msg>", "<commit_after>", "<reponame>",
)  # fmt: skip
STARCHAT_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                 "<|end_header_id|>", "<|eot_id|>")  # fmt: skip
NEOX_SPECIAL = ("<|endoftext|>", "<|padding|>")
SPACES = tuple(" " * n for n in range(24, 1, -1))
"""Runs of spaces that GPT-NeoX and MPT have as tokens, the longest first."""

MODULES = ("argparse", "ast", "calendar", "csv", "difflib", "enum", "heapq", "inspect", "random",
           "statistics", "string", "textwrap", "typing", "uuid", "zipfile")  # fmt: skip
UNICODE = (
    "Café naïve Straße élan Ünïcödé — “quotes” … 日本語の文章 东京 한국어 Привет мир 🙂 👍 €100\n"
) * 40

LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Bytes that UTF-8 never has; the alphabet of GPT-NeoX, which was found in text, lacks them.
NO_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))


@dataclass(frozen=True)
class Family:
    """How the tokenizers of a family of models are made."""

    stages: Callable[[], list[Any]]  #: of the pre-tokenizer
    first: tuple[str, ...] = ()  #: special tokens with the lowest ids
    last: tuple[str, ...] = ()  #: those with the highest ids
    spaces: tuple[str, ...] = ()  #: runs that are tokens, between the merged tokens and ``last``
    n_merged: int = 512  #: how many tokens there are before these, ``first`` included
    has_all_bytes: bool = True  #: whether bytes that UTF-8 never has are tokens, too
    normalizer: Any = None
    settings: dict[str, Any] = field(default_factory=dict)  #: of ``tokenizer_config.json``


def byte_level(use_regex: bool = True) -> Any:
    """GPT-2's pre-tokenizer, or only its letters for bytes."""
    return pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def falcon_stages() -> list[Any]:
    digits = pre.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated")
    return [pre.Punctuation("contiguous"), byte_level(), pre.Digits(False), digits]


def llama_stages() -> list[Any]:
    return [pre.Split(Regex(LLAMA_PATTERN), behavior="isolated"), byte_level(use_regex=False)]


END = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
NEOX: dict[str, Any] = {"first": NEOX_SPECIAL, "spaces": SPACES, "n_merged": 500,
        "has_all_bytes": False, "normalizer": normalizers.NFC(), "settings": END}  # fmt: skip
FAMILIES = {
    "falcon": Family(falcon_stages, FALCON_SPECIAL, n_merged=544, settings=END),
    "gpt_bigcode": Family(
        lambda: [pre.Digits(True), byte_level()], STARCODER_SPECIAL, STARCHAT_SPECIAL, n_merged=540,
        settings=END,
    ),
    "gpt2": Family(lambda: [byte_level()], last=("<|endoftext|>",), n_merged=543, settings=END),
    "gpt_neox": Family(lambda: [byte_level()], **NEOX),
    "mpt": Family(lambda: [byte_level()], last=("<|im_start|>", "<|im_end|>"), **NEOX),
    "llama": Family(
        llama_stages, last=LLAMA_SPECIAL, n_merged=539,
        settings={"bos_token": LLAMA_SPECIAL[0], "eos_token": LLAMA_SPECIAL[4],
                  "chat_template": LLAMA_TEMPLATE},
    ),
}  # fmt: skip


def make_tokenizer(family: Family) -> Tokenizer:
    """Train a tokenizer on the sources of Python's library and some other scripts."""
    tokenizer = Tokenizer(models.BPE())
    stages = family.stages()
    tokenizer.pre_tokenizer = stages[0] if len(stages) == 1 else pre.Sequence(stages)
    tokenizer.decoder = decoders.ByteLevel()
    if family.normalizer is not None:
        tokenizer.normalizer = family.normalizer
    left_out = () if family.has_all_bytes else NO_UTF8
    trainer = BpeTrainer(
        vocab_size=family.n_merged,
        special_tokens=list(family.first),
        initial_alphabet=[LETTERS[byte] for byte in range(256) if byte not in left_out],
        show_progress=False,
    )
    library = Path(sysconfig.get_path("stdlib"))
    texts = [(library / f"{module}.py").read_text("utf-8") for module in MODULES]
    tokenizer.train_from_iterator([*texts, UNICODE], trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in family.spaces])
    tokenizer.add_special_tokens(list(family.last))
    if "chat_template" in family.settings:
        bos = family.settings["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def special_texts(family: Family) -> Iterator[str]:
    for text in (*family.first, *family.last):
        yield f"before {text}after"
    for spaces in family.spaces[-3:]:
        yield f"def f():\n{spaces}pass"
