"""Tests of the token table: what is special, what ends a generation, what tokens look like."""

import logging

import pytest

from shared.model.description import Family, FileFormat, ModelFile, TokenizerKind
from shared.model.gguf import TokenType
from tests.model_files import model_file
from tests.tokenizers_of_families import trained
from worker.tokenizer.merges import restore_bytes
from worker.tokenizer.tokenizer import build_tokenizer
from worker.tokenizer.vocabulary import Vocabulary

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = (
    TokenType.NORMAL,
    TokenType.UNKNOWN,
    TokenType.CONTROL,
    TokenType.USER_DEFINED,
    TokenType.UNUSED,
    TokenType.BYTE,
)
BYTES = [bytes((byte,)) for byte in range(256)]


def gguf(*tokens: tuple[bytes, TokenType], **changes: object) -> ModelFile:
    return model_file(
        [text for text, _ in tokens],
        file_format=FileFormat.GGUF,
        token_types=[kind for _, kind in tokens],
        **{"family": Family.LLAMA, **changes},
    )


def library(text: bytes) -> list[int]:
    raise AssertionError


def test_control_and_user_defined_tokens_of_a_gguf_file_are_special() -> None:
    file = gguf(
        (b"<unk>", UNKNOWN), (b"<|endoftext|>", CONTROL), (b"<tool_call>", USER), (b"a", NORMAL),
        (b"\n\n", USER), (b"<|system|>", NORMAL), (b"[PAD6]", UNUSED), (b"", CONTROL),
    )  # fmt: skip
    vocabulary = Vocabulary.from_model(file)
    assert vocabulary.special == {"<|endoftext|>": 1, "<tool_call>": 2}
    assert vocabulary.added == {"\n\n": 4}
    assert vocabulary.token_bytes == [
        b"", b"", b"<tool_call>", b"a", b"\n\n", b"<|system|>", b"", b"",
    ]  # fmt: skip


def test_a_gguf_file_that_marks_nothing_is_taken_for_a_legacy_one() -> None:
    file = gguf(
        (b">>TITLE<<", NORMAL), (b"<|endoftext|>", NORMAL), (b"a", NORMAL), family=Family.FALCON
    )
    vocabulary = Vocabulary.from_model(file)
    assert vocabulary.special == {">>TITLE<<": 0, "<|endoftext|>": 1}
    assert (vocabulary.eos, vocabulary.eog) == (1, frozenset({1}))
    assert vocabulary.token_bytes == [b"", b"", b"a"]


@pytest.mark.parametrize(
    ("family", "texts"),
    [
        (Family.STARCODER, ["<fim_prefix>", "<fim-middle>", "<commit_msg>", "<|end|>", "[PAD]"]),
        (Family.FALCON, [">>SUFFIX<<", "<|endoftext|>", "<|prompter|>"]),
        (Family.GPT_NEOX, ["<|padding|>", "<|ASSISTANT|>", "### End", "### Response:\n"]),
        (Family.MPT, ["<|im_start|>", "<|im_end|>"]),
        (Family.GPT2, ["<|endoftext|>"]),
    ],
)
def test_special_tokens_of_legacy_files(family: Family, texts: list[str]) -> None:
    others = [
        b"<",
        b"|>",
        b"<|a b|>",
        b"<p>",
        b">>title<<",
        b"[PAD1]",
        b"<||>",
        b"### ",
        b"\xff" * 6,
    ]
    file = model_file([*others, *(text.encode() for text in texts)], family=family)
    vocabulary = Vocabulary.from_model(file)
    assert vocabulary.special == {
        text: token for token, text in enumerate(texts, start=len(others))
    }
    assert vocabulary.token_bytes == [*others, *[b""] * len(texts)]


def test_names_of_one_family_are_text_to_another() -> None:
    tokens = [b"<filename>", b">>TITLE<<", b"### End"]
    assert Vocabulary.from_model(model_file(tokens, family=Family.GPT2)).special == {}


def test_runs_of_spaces_are_added_tokens_where_they_follow_each_other() -> None:
    runs = [b" " * length for length in range(24, 1, -1)]
    tokens = [b"<|endoftext|>", *BYTES, b"  ", b"    ", *runs, *runs[-1:] * 9]
    vocabulary = Vocabulary.from_model(model_file(tokens, family=Family.MPT))
    assert vocabulary.added == {" " * length: 283 - length for length in range(24, 1, -1)}
    tokenizer = build_tokenizer(model_file(tokens, family=Family.MPT), vocabulary, library)
    assert tokenizer.encode(("a" + " " * 26 + "b   \n",)) == [98, 259, 281, 99, 280, 11]
    without = [b"<|endoftext|>", *BYTES, *runs[1:]]
    assert Vocabulary.from_model(model_file(without, family=Family.MPT)).added == {}


def test_what_ends_a_generation_is_never_guessed() -> None:
    nothing = Vocabulary.from_model(model_file(BYTES))
    assert (nothing.bos, nothing.eos, nothing.eog) == (None, None, frozenset())
    named = Vocabulary.from_model(model_file(BYTES, eos=65))
    assert (named.eos, named.eog) == (65, frozenset({65}))
    texts = [b"<|im_end|>", b"<|endoftext|>", b"<|user|>", b"<|end|>"]
    several = Vocabulary.from_model(model_file([*BYTES, *texts], family=Family.STARCODER))
    assert (several.eos, several.eog) == (257, frozenset({256, 257, 259}))


def test_of_copies_the_first_is_meant_and_all_are_silent() -> None:
    tokens = [*BYTES, b"<|im_end|>", b"<|im_end|>", b"ab", b"ab"]
    file = model_file(tokens, family=Family.MPT)
    vocabulary = Vocabulary.from_model(file)
    assert (vocabulary.special, vocabulary.eog) == ({"<|im_end|>": 256}, frozenset({256}))
    assert vocabulary.token_bytes[256:] == [b"", b"", b"ab", b"ab"]
    assert build_tokenizer(file, vocabulary, library).encode(("ab<|im_end|>",))[0] == 258


@pytest.mark.parametrize(
    ("texts", "family", "expected"),
    [
        (
            ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"],
            Family.STARCODER,
            ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ),
        (
            ["<fim-prefix>", "<fim-middle>", "<fim-suffix>"],
            Family.STARCODER,
            ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        ),
        (["<fim_prefix>", "<fim_suffix>"], Family.STARCODER, None),
        (["<fim_prefix>", "<fim_middle>", "<fim_suffix>"], Family.GPT2, None),
    ],
)
def test_tokens_for_filling_in(
    texts: list[str], family: Family, expected: tuple[str, str, str] | None
) -> None:
    file = model_file([text.encode() for text in texts], family=family)
    assert Vocabulary.from_model(file).fim_tokens == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"add_bos": True}, True),
        ({"pre_tokenizer": "llama-bpe"}, True),
        ({"pre_tokenizer": "llama-bpe", "add_bos": False}, False),
        ({"pre_tokenizer": "llama-bpe", "bos": None}, False),
        ({"tokenizer": TokenizerKind.SENTENCEPIECE}, True),
        ({"tokenizer": TokenizerKind.SENTENCEPIECE, "add_bos": False}, False),
    ],
)
def test_whether_prompts_begin_with_the_begin_token(
    changes: dict[str, object], expected: bool
) -> None:
    file = gguf((b"<s>", CONTROL), (b"a", NORMAL), **{"bos": 0, **changes})
    assert Vocabulary.from_model(file).add_bos is expected


def test_llama_3_begins_with_it_though_old_files_do_not_say_so() -> None:
    tokens = ((b"<|begin_of_text|>", CONTROL), (b"<|eot_id|>", CONTROL))
    for known, expected in ((tokens, True), (tokens[:1], False)):
        file = gguf(*known, bos=0, family=Family.LLAMA)
        assert Vocabulary.from_model(file).add_bos is expected


def test_pieces_of_sentencepiece() -> None:
    file = gguf(
        (b"<unk>", UNKNOWN), (b"</s>", CONTROL), (b"<0x0A>", BYTE), ("▁a▁b".encode(), NORMAL),
        (b"<|im_end|>", USER), (b"<unused0>", UNUSED), (b"\t\t", USER),
        tokenizer=TokenizerKind.SENTENCEPIECE,
    )  # fmt: skip
    vocabulary = Vocabulary.from_model(file)
    assert vocabulary.token_bytes == [b"", b"", b"\n", b" a b", b"<|im_end|>", b"", b"\t\t"]
    assert vocabulary.special == {"</s>": 1, "<|im_end|>": 4}
    assert (vocabulary.eog, vocabulary.added) == (frozenset({1, 4}), {"\t\t": 6})


def test_texts() -> None:
    vocabulary = Vocabulary.from_model(model_file([b"<|endoftext|>", b"\xff"]))
    assert [vocabulary.text(token) for token in (0, 1, None)] == ["<|endoftext|>", "\ufffd", ""]
    assert vocabulary.max_token_bytes == 13


def test_single_bytes_that_a_converter_lost_are_restored(caplog: pytest.LogCaptureFixture) -> None:
    file = trained("gpt-neox").file
    shown = [raw.decode("utf-8", "replace").encode() for raw in file.tokens]
    with caplog.at_level(logging.WARNING):
        vocabulary = Vocabulary.from_model(model_file(shown, family=Family.GPT_NEOX))
    assert "model.bin: the bytes of" in caplog.text and "tokenizer.json" in caplog.text
    singles = {raw for raw in file.tokens if len(raw) == 1}
    assert singles <= set(vocabulary.raw)
    tokenizer = build_tokenizer(model_file(shown, family=Family.GPT_NEOX), vocabulary, library)
    text = "naïve 日本語 🙂 m\u0301"
    ids = tokenizer.encode((text,))
    assert b"".join(vocabulary.token_bytes[token] for token in ids).decode() == "naïve 日本語 🙂 ḿ"


def test_only_what_is_sure_is_restored() -> None:
    tokens = list(trained("gpt-neox").file.tokens)
    assert restore_bytes(tokens) is tokens
    shown = [raw.decode("utf-8", "replace").encode() for raw in tokens]
    first = shown.index(b"!")
    shown[first + 3], shown[first + 4] = shown[first + 4], shown[first + 3]
    assert restore_bytes(shown) is shown
    assert restore_bytes([b"\xef\xbf\xbd"] * 300) == [b"\xef\xbf\xbd"] * 300


def test_bytes_without_a_token_are_dropped_as_the_reference_drops_them() -> None:
    file = model_file([b"a", b"b", b"ab", b"\xc3"])
    tokenizer = build_tokenizer(file, Vocabulary.from_model(file), library)
    assert tokenizer.encode(("a\0bé🙂ab",)) == [0, 1, 3, 2]
