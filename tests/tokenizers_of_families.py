"""Trains a small tokenizer for each family, as its authors staged theirs, and what a file has.

The definitions are written out here once more, in the authors' own stages, to hold the ones of
`worker.tokenizer.pre_tokenizers` against.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import PreTokenizer

from shared.model.byte_level import BYTE_OF_LETTER
from shared.model.description import Family, ModelFile
from shared.model.gguf import TokenType
from tests.model_files import model_file

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
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
CHATML_SPECIAL = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Recipe:
    """How a family's tokenizer is made."""

    family: Family
    stages: str
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    nfc: bool = False
    space_runs: bool = False
    pre: str | None = None


RECIPES = {
    "gpt2": Recipe(Family.GPT2, "gpt2", last=("<|endoftext|>",)),
    "gpt-neox": Recipe(
        Family.GPT_NEOX, "gpt2", ("<|endoftext|>", "<|padding|>"), nfc=True, space_runs=True
    ),
    "mpt": Recipe(
        Family.MPT,
        "gpt2",
        ("<|endoftext|>", "<|padding|>"),
        CHATML_SPECIAL,
        nfc=True,
        space_runs=True,
    ),
    "starcoder": Recipe(
        Family.STARCODER, "digits", STARCODER_SPECIAL, (*STARCHAT_SPECIAL, "[PAD]")
    ),
    "falcon": Recipe(Family.FALCON, "falcon", FALCON_SPECIAL),
    "smollm": Recipe(
        Family.LLAMA, "digits", ("<|endoftext|>", *CHATML_SPECIAL, "<repo_name>"), pre="smollm"
    ),
    "llama3": Recipe(
        Family.LLAMA, "llama3", last=("<|begin_of_text|>", "<|eot_id|>"), pre="llama-bpe"
    ),
}


@dataclass(frozen=True)
class Trained:
    reference: Tokenizer  #: texts of special tokens are plain text to it
    merges: list[tuple[str, str]]
    file: ModelFile  #: has its vocabulary and nothing else


@cache
def lines() -> list[str]:
    """The texts of tests/data/lines.txt."""
    path = Path(__file__).parent / "data" / "lines.txt"
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def stages(name: str) -> PreTokenizer:
    """A pre-tokenizer as its authors define it."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "digits":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if name == "falcon":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation(behavior="contiguous"),
                gpt2,
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated"),
            ]
        )
    if name == "llama3":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return gpt2


@cache
def trained(name: str) -> Trained:
    """Train the tokenizer of `RECIPES` with this name on every second line."""
    recipe = RECIPES[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=recipe.stages == "llama3"))
    tokenizer.pre_tokenizer = stages(recipe.stages)
    if recipe.nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=2500,
        special_tokens=list(recipe.first),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines()[::2], trainer)
    if recipe.space_runs:
        runs = [AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)]
        tokenizer.add_tokens(runs)
    tokenizer.add_special_tokens(list(recipe.last))
    tokenizer.encode_special_tokens = True
    merges = [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
    return Trained(tokenizer, merges, _file(tokenizer, recipe))


def _file(tokenizer: Tokenizer, recipe: Recipe) -> ModelFile:
    added = {token: text.content for token, text in tokenizer.get_added_tokens_decoder().items()}
    texts = [tokenizer.id_to_token(token) or "" for token in range(tokenizer.get_vocab_size())]
    tokens = [
        text.encode() if token in added else bytes(BYTE_OF_LETTER[letter] for letter in text)
        for token, text in enumerate(texts)
    ]
    special = {*recipe.first, *recipe.last}
    types = [
        TokenType.CONTROL if text.decode("utf-8", "replace") in special else TokenType.NORMAL
        for text in tokens
    ]
    return model_file(
        tokens,
        family=recipe.family,
        pre_tokenizer=recipe.pre,
        token_types=types if recipe.family is Family.LLAMA else None,
    )
