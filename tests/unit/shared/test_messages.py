"""Tests of the messages' one encoding."""

from dataclasses import fields
from typing import get_args

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.encoding import decode, encode, pack
from shared.grammar import Grammar
from shared.logprobs import Candidate, TokenLogprobs
from shared.messages import (
    Cancel,
    Chat,
    Delta,
    Detokenize,
    Ended,
    Failed,
    Finished,
    Fork,
    Forked,
    Generate,
    LoadFailed,
    Message,
    ModelInfo,
    Prefilled,
    Prepare,
    Prepared,
    Progress,
    Ready,
    SetThreads,
    Shutdown,
    Text,
    Warm,
    Warmed,
)
from shared.sampling import SamplingParams

texts = st.text(max_size=40) | st.sampled_from(
    ["", "\n", "a\r\nb", "\0", "\u2028\u2029\x85", 'quote " and \\', "héllo 日本語 🙂", "\ufffd"]
)
text_tuples = st.lists(texts, max_size=4).map(tuple)
counts = st.integers(0, 2**53)
numbers = st.floats(allow_nan=False, allow_infinity=False)
sampling = st.builds(
    SamplingParams,
    temperature=numbers,
    top_p=numbers,
    top_k=counts,
    min_p=numbers,
    presence_penalty=numbers,
    frequency_penalty=numbers,
    repetition_penalty=numbers,
    seed=st.none() | st.integers(-(2**63), 2**64 - 1),
    logit_bias=st.lists(st.tuples(counts, numbers), max_size=3).map(tuple),
)
ids = st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)
objects = st.lists(st.dictionaries(texts, texts | st.none() | counts), max_size=2).map(tuple)
grammars = st.none() | st.builds(Grammar, kind=texts, source=texts)
candidates = st.builds(Candidate, raw=texts, logprob=st.none() | numbers, is_control=st.booleans())
logprobs = st.lists(
    st.builds(TokenLogprobs, chosen=candidates, top=st.lists(candidates, max_size=2).map(tuple)),
    max_size=2,
).map(tuple)
messages: dict[type[object], st.SearchStrategy[Message]] = {
    Generate: st.builds(
        Generate,
        request_id=texts,
        ids=ids,
        sampling=sampling,
        max_tokens=st.none() | counts,
        stop=text_tuples,
        grammar=grammars,
        logprobs=st.none() | counts,
        echoes_from=st.none() | counts,
        min_tokens=counts,
        ignores_eog=st.booleans(),
        stop_ids=st.lists(counts, max_size=4).map(tuple),
        embeds=st.booleans(),
    ),
    Prepare: st.builds(
        Prepare,
        request_id=texts,
        prompt=st.none()
        | st.builds(Chat, messages=objects, tools=objects)
        | st.builds(Text, text=texts, suffix=texts, parses_special=st.booleans()),
        param=texts,
        begins=st.booleans(),
        wants_text=st.booleans(),
        wants_pieces=st.booleans(),
        grammar=grammars,
    ),
    Detokenize: st.builds(Detokenize, request_id=texts, ids=ids),
    Cancel: st.builds(Cancel, request_id=texts),
    SetThreads: st.builds(SetThreads, threads=counts),
    Shutdown: st.just(Shutdown()),
    Ready: st.builds(
        Ready,
        model=st.builds(
            ModelInfo,
            family=texts,
            n_ctx=counts,
            n_vocab=counts,
            max_token_bytes=counts,
            chat_template=st.none() | texts,
            bos_token=texts,
            eos_token=texts,
            fim_tokens=st.none() | st.tuples(texts, texts, texts),
        ),
    ),
    LoadFailed: st.builds(LoadFailed, reason=texts),
    Warm: st.builds(Warm, text=texts),
    Fork: st.builds(Fork, name=texts, target=texts),
    Warmed: st.builds(Warmed, ids=ids),
    Forked: st.builds(Forked, pid=counts),
    Ended: st.builds(Ended, pid=counts, status=st.integers(-64, 255)),
    Progress: st.builds(Progress, request_id=texts),
    Prefilled: st.builds(
        Prefilled,
        request_id=texts,
        prompt_tokens=counts,
        cached_tokens=counts,
        prefill_ms=numbers,
        echo_logprobs=logprobs,
    ),
    Delta: st.builds(Delta, request_id=texts, text=texts, tokens=counts, logprobs=logprobs),
    Finished: st.builds(
        Finished,
        request_id=texts,
        finish_reason=texts,
        completion_tokens=counts,
        decode_ms=numbers,
        embedding=texts,
        ids=ids,
    ),
    Prepared: st.builds(
        Prepared,
        request_id=texts,
        ids=ids,
        text=texts,
        pieces=text_tuples,
        n_added=counts,
        stop=text_tuples,
    ),
    Failed: st.builds(Failed, request_id=texts, code=texts, message=texts, param=st.none() | texts),
}


def test_every_message_is_covered() -> None:
    assert set(messages) == set(get_args(Message))


@given(st.one_of(*messages.values()))
def test_round_trip(message: Message) -> None:
    line = encode(message)
    assert b"\n" not in line
    again = decode(line)
    assert type(again) is type(message)
    assert again == message


@given(st.one_of(*messages.values()))
def test_all_messages_look_alike(message: Message) -> None:
    line = orjson.dumps((type(message).__name__, message), tuple)
    if hasattr(message, "ids"):
        name, fields = orjson.loads(line)
        line = orjson.dumps((name, {**fields, "ids": pack(fields["ids"])}))
    assert encode(message) == line


@given(st.lists(st.one_of(*messages.values()), max_size=5))
def test_lines_can_be_told_apart(sent: list[Message]) -> None:
    pipe = b"".join(encode(message) + b"\n" for message in sent)
    assert [decode(line) for line in pipe.split(b"\n")[:-1]] == sent


def test_what_is_sent() -> None:
    line = encode(Generate("a", (1, 150_000), SamplingParams(seed=7), 3, stop=("x",)))
    name, sent = orjson.loads(line)
    assert name == "Generate"
    assert set(sent) == {field.name for field in fields(Generate)}
    assert (sent["ids"], sent["stop"], sent["sampling"]["seed"]) == ("AQAAAPBJAgA=", ["x"], 7)


def test_decoded_messages_are_immutable_values() -> None:
    request = decode(encode(Generate("a", (1,), stop=("x", "y"))))
    assert isinstance(request.sampling, SamplingParams)
    assert request.stop == ("x", "y")
    assert hash(request) == hash(Generate("a", (1,), stop=("x", "y")))


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"5",
    b'"Cancel"',
    b'["Cancel"]',
    b'["Cancel", {}]',
    b'["Cancel", {"request_id": "a", "more": 1}]',
    b'["Cancel", {"request_id": "a"}, 1]',
    b'["Cancel", ["a"]]',
    b'["Cancel", null]',
    b'["Nonsense", {}]',
    b'["SamplingParams", {}]',
    b'[["Cancel"], {}]',
    b"[{}, {}]",
    b'["Generate", {}]',
    b'["Generate", null]',
    b'["Generate", []]',
    b'["Generate", {"request_id": "a", "prompt": "b", "sampling": null, "stop": []}]',
    b'["Generate", {"request_id": "a", "prompt": "b", "sampling": {}, "stop": null}]',
    b'["Generate", {"request_id": "a", "prompt": "b", "sampling": {"x": 1}, "stop": []}]',
    b'["Ready", {"model": 1}]',
    b'["Ready", {"model": {}}]',
    b'["Shutdown", {}] x',
    b'["Delta", {"request_id": "a", "text": "b"}]',
    b'["Delta", {"request_id": "a", "text": "b", "tokens": 1, "more": 1}]',
    b'["Delta", ["a", "b", 1]]',
    b'["Delta", null]',
    b"\xff\xfe",
    b"\0",
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", GARBAGE, ids=lambda line: repr(line[:40]))
def test_garbage_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode(line)


def test_the_error_does_not_repeat_the_text() -> None:
    with pytest.raises(ValueError) as error:
        decode(b'["Delta", {"request_id": "a", "text": "sesame"}]')
    assert "sesame" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
names = st.sampled_from([cls.__name__ for cls in messages])


@given(
    st.binary(max_size=40)
    | json_values.map(orjson.dumps)
    | st.tuples(names, json_values).map(orjson.dumps)
)
@example(b'["Generate", 1]')
def test_nothing_but_a_value_error_comes_of_any_line(line: bytes) -> None:
    try:
        message = decode(line)
    except ValueError:
        return
    assert type(message) in messages


@given(st.one_of(*messages.values()), st.data())
def test_half_a_message_is_none(message: Message, data: st.DataObject) -> None:
    line = encode(message)
    half = line[: data.draw(st.integers(0, len(line) - 1))]
    with pytest.raises(ValueError, match="not a message"):
        decode(half)
