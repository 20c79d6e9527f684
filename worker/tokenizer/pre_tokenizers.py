"""The stages in which each family cuts text into pieces before BPE is run on them.

They are the stages of the families' own ``tokenizer.json``. Each sees the pieces of the one before
as whole texts, so that GPT-2's pattern means something else behind another stage.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from shared.errors import ModelFileError
from shared.model.description import Family, ModelFile

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preparation:
    """What happens to text before BPE, and to its pieces."""

    pre_tokenizer: Callable[[], PreTokenizer]  #: makes the stages
    nfc: bool = False  #: text is brought to Unicode's composed form first
    #: a piece that is a token is taken as it is, without running its merges
    ignore_merges: bool = False
    single_digits: bool = False  #: each digit is a piece, whatever stands beside it


def _gpt2() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_gpt2() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _falcon() -> PreTokenizer:
    """Falcon's four stages in three, which takes two thirds of the time.

    Its own are runs of punctuation, GPT-2's pattern within what is left, runs of numerals, and
    three digits at a time. The last two see the letters that stand for bytes, some of which are
    numerals: they cut characters in pieces.
    """
    mark = _punctuation()
    words = (
        rf"[{mark}]+| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}{mark}]+"
        # As GPT-2's `\s+(?!\S)`, for which a text ends where punctuation begins.
        rf"|\s+(?![^\s{mark}])|\s+"
    )
    numbers = "[0-9]{3}|(?:(?![0-9]{3})[0-9²³¹¼½¾])+"
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            pre_tokenizers.Split(Regex(numbers), behavior="isolated"),
        ]
    )


def _punctuation() -> str:
    """What `Punctuation` takes for such, as the inside of a character class.

    It has Unicode tables of its own, older than those of the patterns.
    """
    # There is none in the planes above these two.
    characters = (chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000)
    found = pre_tokenizers.Punctuation(behavior="isolated").pre_tokenize_str(
        "a" + "a".join(characters) + "a"
    )
    codes = sorted({ord(piece) for piece, _ in found if len(piece) == 1} - {ord("a")})
    return "".join(rf"\x{{{code:x}}}" for code in codes)


def _split(pattern: str) -> Callable[[], PreTokenizer]:
    def build() -> PreTokenizer:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, letters])

    return build


_GPT2 = Preparation(_gpt2)
_GPT_NEOX = Preparation(_gpt2, nfc=True)
_DIGITS = Preparation(_digits_then_gpt2, single_digits=True)

# By the names that llama.cpp gives them in `tokenizer.ggml.pre`.
PREPARATIONS: dict[str, Preparation] = {
    **dict.fromkeys(("gpt-2", "phi-2", "jais"), _GPT2),
    **dict.fromkeys(("mpt", "olmo"), _GPT_NEOX),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS
    ),
    "falcon": Preparation(_falcon),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3"),
        Preparation(_split(_LLAMA3), ignore_merges=True),
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Preparation(_split(_LLAMA3))),
    "qwen2": Preparation(_split(_QWEN2), nfc=True),
    "stablelm2": Preparation(_split(_QWEN2)),
    "tekken": Preparation(_split(_TEKKEN), ignore_merges=True),
}
_OF_FAMILY = {
    Family.LLAMA: _GPT2,
    Family.GPT2: _GPT2,
    Family.GPT_NEOX: _GPT_NEOX,
    Family.MPT: _GPT_NEOX,
    Family.STARCODER: _DIGITS,
    Family.FALCON: PREPARATIONS["falcon"],
}


def named_pre_tokenizer(file: ModelFile) -> str | None:
    """The name of the file's pre-tokenizer; None where it is its family's own.

    Files of Llama 3 from before there were such names have none, or a later model's; they are
    known by two of their special tokens.
    """
    name = None if file.pre_tokenizer == "default" else file.pre_tokenizer
    if (
        name in (None, "smaug-bpe")
        and file.family is Family.LLAMA
        and all(text in file.tokens for text in (b"<|begin_of_text|>", b"<|eot_id|>"))
    ):
        return "llama-bpe"
    return name


def preparation_of(file: ModelFile) -> Preparation:
    """What the file names, or what its family has.

    Raises:
        ModelFileError: the file names something that is not known here.
    """
    name = named_pre_tokenizer(file)
    if name is None and file.family is Family.LLAMA:
        logger.warning("%s: names no pre-tokenizer; it is taken to be GPT-2's", file.path)
    if name is None:
        assert file.family is not None, "llama.cpp has a tokenizer of its own"
        return _OF_FAMILY[file.family]
    if name not in PREPARATIONS:
        raise ModelFileError(
            f"{file.path}: the pre-tokenizer {name!r:.60} is not supported;"
            f" supported are: {', '.join(sorted(PREPARATIONS))}"
        )
    return PREPARATIONS[name]
