"""Tests of the messages' one encoding."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.encoding import decode, encode, pack
from shared.messages import Generate, Message
from shared.sampling import SamplingParams
from shared.times import Times

texts = st.text(max_size=40) | st.sampled_from(
    ["", "\n", "a\r\nb", "\0", "\u2028\u2029\x85", 'quote " and \\', "héllo 日本語 🙂", "\ufffd"]
)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    bool: st.booleans(),
    int: st.integers(0, 2**31 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    NoneType: st.none(),
    Times: st.none(),  # the gateway's own: they do not cross
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field, by its type."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    kind, arguments = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return st.one_of(*map(values, arguments))
    if kind is Mapping:
        return st.dictionaries(texts, texts | st.none() | SIMPLE[int])
    if kind is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if kind is tuple:
        return st.tuples(*map(values, arguments))
    assert is_dataclass(hint) or hasattr(hint, "_fields"), hint
    return st.builds(hint, **{name: values(of) for name, of in get_type_hints(hint).items()})


messages: dict[type[object], st.SearchStrategy[Message]] = {
    kind: values(kind) for kind in get_args(Message)
}


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
    b"", b"null", b"[]", b"{}", b"5", b'"Cancel"', b'["Cancel"]', b'["Cancel", {}]',
    b'["Cancel", {"request_id": "a", "more": 1}]',
    b'["Cancel", {"request_id": "a"}, 1]',
    b'["Cancel", ["a"]]', b'["Cancel", null]', b'["Nonsense", {}]', b'["SamplingParams", {}]',
    b'[["Cancel"], {}]', b"[{}, {}]",
    b'["Generate", {"request_id": "a", "ids": "", "sampling": null, "stop": []}]',
    b'["Generate", {"request_id": "a", "ids": "", "sampling": {"x": 1}, "stop": []}]',
    b'["Ready", {"model": 1}]', b'["Ready", {"model": {}}]', b'["Shutdown", {}] x',
    b'["Delta", {"request_id": "a", "text": "b"}]',
    b'["Delta", ["a", "b", 1]]',
    b"\xff\xfe", b"\0", b"[" * 100_000,
]  # fmt: skip


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
