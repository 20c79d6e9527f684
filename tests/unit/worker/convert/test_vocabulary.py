"""Vocabularies, special tokens, and what is said about unusual ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from shared.errors import UsageError
from shared.model.gguf import TokenType
from tests.models.reference import references
from tests.unit.worker.convert.folders import edit_json, folder
from worker.convert.conversion import convert
from worker.convert.mpt import token_form
from worker.convert.source import ModelFolder
from worker.convert.special_tokens import SpecialTokens, read_special_tokens
from worker.convert.tensors import WeightType
from worker.convert.vocabulary import Vocabulary, read_byte_level

ONE_PER_FAMILY = ["falcon-7b", "starcoder-mqa", "gpt2", "neox-parallel", "mpt-alibi8", "llama-gqa"]


def read(model: Path) -> Vocabulary:
    return read_byte_level(ModelFolder(model))


def edit_tokenizer(model: Path, changes: dict[str, Any]) -> None:
    edit_json(model / "tokenizer.json", changes)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_ids_are_the_tokenizers_own(name: str, tmp_path: Path) -> None:
    vocabulary = read(folder(name, tmp_path))
    tokenizer = Tokenizer.from_file(str(references()[name].tokenizer_path))
    added = tokenizer.get_added_tokens_decoder()
    assert len(vocabulary.tokens) == tokenizer.get_vocab_size()
    for token, (raw, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if token in added:
            assert raw.decode() == added[token].content
            assert kind == (TokenType.CONTROL if added[token].special else TokenType.USER_DEFINED)
        else:
            assert kind is TokenType.NORMAL
            assert raw.decode("utf-8", "replace") == tokenizer.decode([token])


@pytest.mark.parametrize(
    ("name", "pre", "normalizer"),
    [
        ("falcon-7b", "falcon", None),
        ("starcoder-mqa", "smollm", None),
        ("gpt2", "gpt-2", None),
        ("neox-parallel", "gpt-2", "NFC"),
        ("mpt-alibi8", "gpt-2", "NFC"),
        ("llama-gqa", "llama-bpe", None),
    ],
)
def test_pre_tokenizers(name: str, pre: str, normalizer: str | None, tmp_path: Path) -> None:
    vocabulary = read(folder(name, tmp_path))
    assert (vocabulary.pre, vocabulary.normalizer) == (pre, normalizer)
    assert vocabulary.can_be_rebuilt


def test_merges_in_both_spellings(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    expected = read(model).merges
    edit_tokenizer(model, {"model.merges": [" ".join(merge) for merge in expected]})
    assert read(model).merges == expected
    edit_tokenizer(model, {"model.merges": ["a b c"]})
    with pytest.raises(UsageError, match="'a b c' is not a merge of two tokens"):
        read(model)


def test_merges_out_of_order_cannot_be_rebuilt(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    merges = [list(merge) for merge in read(model).merges]
    edit_tokenizer(model, {"model.merges": merges[::-1]})
    assert not read(model).can_be_rebuilt


def test_tokens_that_no_merge_makes_cannot_be_rebuilt(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    merges = [list(merge) for merge in read(model).merges]
    edit_tokenizer(model, {"model.merges": merges[:-1]})
    assert not read(model).can_be_rebuilt


@pytest.mark.parametrize(("name", "n_notes"), [("gpt2", 1), ("falcon-7b", 0)])
def test_merges_that_a_file_holds_may_be_in_any_order(
    name: str, n_notes: int, tmp_path: Path
) -> None:
    model = folder(name, tmp_path)
    merges = [list(merge) for merge in read(model).merges]
    edit_tokenizer(model, {"model.merges": merges[::-1]})
    edit_json(model / "config.json", {"max_position_embeddings": 2048})
    assert len(convert(model, tmp_path / "m.bin", WeightType.F16).notes) == n_notes


def test_unused_rows_get_names_that_nothing_else_has(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    content = json.loads((model / "tokenizer.json").read_text())
    added = content["added_tokens"]
    added.append({**added[0], "id": 546, "content": "[PAD547]"})
    edit_tokenizer(model, {"added_tokens": added})
    vocabulary = read(model)
    # Ids between the tokens, too.
    assert vocabulary.tokens[544:] == (b"[PAD544]", b"[PAD545]", b"[PAD547]")
    fitted = vocabulary.fitted(549)
    assert fitted.tokens[547:] == (b"[[PAD547]]", b"[PAD548]")
    assert fitted.types[544:] == tuple(
        TokenType.CONTROL if token == 546 else TokenType.UNUSED for token in range(544, 549)
    )
    assert len(fitted.scores) == 549


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    vocabulary = read(folder("gpt2", tmp_path))
    with pytest.raises(UsageError, match="has 544 tokens, but the model has only 543 embeddings"):
        vocabulary.fitted(543)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.type": "WordPiece"}, "its model is not byte-level BPE"),
        ({"model.byte_fallback": True}, "its model is not byte-level BPE"),
        ({"model.vocab": {}}, "has no tokens"),
        ({"model.vocab": {"a": 0, "b": 0}}, "two tokens have the id 0"),
        ({"model.vocab": {"\u2581the": 0}}, "token '\u2581the' is not spelled in GPT-2's byte"),
        ({"model.vocab": {"a": -1}}, "ids of tokens go from -1 to 543"),
        ({"model.vocab": {"a": 10**12}}, "ids of tokens go from 543 to 1000000000000"),
        ({"model": 3}, "model is 3, not a JSON object"),
        ({"model.vocab": {"a": "b"}}, "is damaged, or no tokenizer"),
        ({"model.vocab": ["a", "b"]}, "is damaged, or no tokenizer"),
        ({"added_tokens": [{"id": 0}]}, "is damaged, or no tokenizer"),
        ({"added_tokens": 7}, "is damaged, or no tokenizer"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": 7}}, "is damaged, or no"),
    ],
)
def test_other_tokenizers(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    edit_tokenizer(model, changes)
    with pytest.raises(UsageError, match=re.escape(f"tokenizer.json: {message}")):
        read(model)


def test_no_tokenizer(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    (model / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=re.escape("tokenizer.json: is missing; save one with")):
        convert(model, tmp_path / "m.bin", WeightType.F16)


def test_mpt_spells_bytes_as_characters() -> None:
    assert token_form(b"a\xff\x80") == "a\u00ff\u0080".encode()


def whitespace(model: Path) -> None:
    edit_tokenizer(model, {"pre_tokenizer": {"type": "Whitespace"}})


def test_an_unusual_tokenizer_is_noted_where_the_file_cannot_tell(tmp_path: Path) -> None:
    model = folder("gpt2", tmp_path)
    assert convert(model, tmp_path / "m.bin", WeightType.F16).notes == ()
    whitespace(model)
    (note,) = convert(model, tmp_path / "m.bin", WeightType.F16).notes
    assert note.startswith("its tokenizer is not the family's usual one")
    assert note.endswith(f"serve it together with {model / 'tokenizer.json'}")


@pytest.mark.parametrize("name", ["llama-gqa", "falcon-7b"])
def test_an_unusual_tokenizer_is_refused_where_the_file_has_to_tell(
    name: str, tmp_path: Path
) -> None:
    model = folder(name, tmp_path)
    whitespace(model)
    with pytest.raises(UsageError, match="splits or normalises text in a way that is not known"):
        convert(model, tmp_path / "m.gguf", WeightType.F16)


def test_a_chat_template_is_noted_where_the_file_has_no_place(tmp_path: Path) -> None:
    model = folder("mpt-alibi8", tmp_path)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    notes = convert(model, tmp_path / "m.bin", WeightType.F16).notes
    assert notes == ("its chat template stays behind: this layout has no place for it",)


def test_special_tokens_are_noted_where_the_file_has_no_place(tmp_path: Path) -> None:
    model = folder("mpt-alibi8", tmp_path)
    text = read(model).tokens[300].decode()
    edit_json(model / "tokenizer_config.json", {"eos_token": text, "add_bos_token": True})
    assert convert(model, tmp_path / "m.bin", WeightType.F16).notes == (
        f"this layout cannot say that {text!r} ends its texts: give it as a stop text",
        "this layout cannot say that its prompts begin with a token: write it first",
    )


@pytest.mark.parametrize(
    ("n_ctx", "notes"),
    [
        (None, ()),
        (2048, ()),
        (8192, ("the ggcc layout has no context length, and the server takes 2,048 tokens of this "
                "model's 8,192; GGUF keeps them all",)),
    ],
)  # fmt: skip
def test_a_context_length_is_noted_where_the_file_has_no_place(
    n_ctx: int | None, notes: tuple[str, ...], tmp_path: Path
) -> None:
    model = folder("falcon-7b", tmp_path)
    edit_json(model / "config.json", {"max_position_embeddings": n_ctx})
    assert convert(model, tmp_path / "m.bin", WeightType.F16).notes == notes


def special_tokens(model: Path) -> SpecialTokens:
    return read_special_tokens(ModelFolder(model), read(model).tokens)


def test_special_tokens(tmp_path: Path) -> None:
    model = folder("llama-gqa", tmp_path)
    found = special_tokens(model)
    assert (found.bos, found.eos, found.add_bos) == (539, 543, True)
    settings = model / "tokenizer_config.json"
    edit_json(settings, {"bos_token": {"content": "<|eot_id|>"}, "eos_token": "unknown"})
    edit_json(model / "config.json", {"eos_token_id": [541, 543]})
    found = special_tokens(model)
    assert (found.bos, found.eos, found.add_bos) == (543, 541, False)
    edit_json(settings, {"add_bos_token": True})
    assert special_tokens(model).add_bos is True
    settings.unlink()
    edit_tokenizer(model, {"post_processor": None})
    edit_json(model / "config.json", {"eos_token_id": None, "bos_token_id": None})
    assert special_tokens(model) == SpecialTokens(None, None, None, None)


def test_chat_templates(tmp_path: Path) -> None:
    model = folder("llama-gqa", tmp_path)
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit_json(model / "tokenizer_config.json", {"chat_template": named})
    assert special_tokens(model).chat_template == "D"
    (model / "chat_template.jinja").write_text("J")
    assert special_tokens(model).chat_template == "J"
    (model / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=re.escape("chat_template.jinja: cannot be read")):
        special_tokens(model)
