"""Finding text and calls in what a model writes, however it comes."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.answer.pieces import CallArguments, CallBegun, Ended, Piece, Text
from gateway.answer.reader import CallParser, CallReader
from shared.messages import Delta, Finished
from shared.tool_calls import OPEN
from worker.prompt.tools import call_text

# What looks like the end of a call, of an object or of a string, but is within one.
TRAPS = ('"', "\\", "{", "}", "[", "]", "</tool_call>", "<tool_call>", "}\n</tool_call>", "\n", "ü",
         ', "arguments": ', "\\u007d", "日", " ")  # fmt: skip
trapped = st.lists(st.sampled_from(TRAPS), max_size=5).map("".join)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | trapped,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(trapped, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(trapped, values, max_size=3).flatmap(
    lambda value: st.sampled_from([json.dumps(value), json.dumps(value, ensure_ascii=False),
                                   json.dumps(value, indent=2)])
)  # fmt: skip
names = st.sampled_from(["f", "get_weather", "a.b-c", "arguments", "tool_call", "x" * 64])
contents = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "<", "<tool", "<tool_call", "</tool_call>", "{", '"', "tool_call>", "日"]
    ),
    max_size=6,
).map("".join).filter(lambda text: "<tool_call>" not in text)  # fmt: skip


def read(texts: list[str], stop: Sequence[str] = ()) -> list[Piece]:
    reader = CallParser(stop)
    pieces = [piece for text in texts for piece in reader.push(text)]
    return pieces + reader.flush()


def folded(pieces: list[Piece]) -> tuple[str, list[list[str]]]:
    """The content, and the names and the arguments of the calls."""
    content = ""
    calls: list[list[str]] = []
    for piece in pieces:
        match piece:
            case Text(text):
                assert text and not calls, "content comes first"
                content += text
            case CallBegun(place, name):
                assert place == len(calls)
                calls.append([name, ""])
            case CallArguments(place, text):
                assert text and place == len(calls) - 1
                calls[place][1] += text
    return content, calls


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted(place % (len(text) + 1) for place in places)
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def test_what_is_read_is_told_at_once() -> None:
    reader = CallParser()
    told = [reader.push(letter) for letter in call_text("f", '{"a": [1]}')]
    begun = next(place for place, pieces in enumerate(told) if pieces)
    assert told[begun] == [CallBegun(0, "f")]
    assert told[begun + 1 : begun + 11] == [[CallArguments(0, letter)] for letter in '{"a": [1]}']
    assert not any(told[begun + 11 :])


def test_text_that_may_begin_a_call_is_held_back() -> None:
    reader = CallParser()
    assert reader.push("1 <tool") == [Text("1")]
    assert reader.push("_call") == []
    assert reader.push("s>") == [Text(" <tool_calls>")]
    assert reader.push(" \n<") == []
    assert reader.flush() == [Text(" \n<")]
    assert reader.n_calls == 0


@given(contents, st.lists(st.tuples(names, arguments), max_size=3), st.lists(st.integers(0)))
@example("a <tool", [("f", '{"a": "}\\n</tool_call>"}')], [])
def test_however_a_text_is_cut_what_it_says_is_the_same(
    content: str, calls: list[tuple[str, str]], places: list[int]
) -> None:
    text = content + "\n".join(call_text(name, given) for name, given in calls)
    expected = content.rstrip() if calls else content
    for pieces in (cut(text, places), list(text), [text]):
        assert folded(read(pieces)) == (expected, [[name, given] for name, given in calls])


@given(contents, names, arguments, st.integers(0), st.lists(st.integers(0)))
def test_a_call_cut_short_says_what_there_was_of_it(
    content: str, name: str, given: str, length: int, places: list[int]
) -> None:
    whole = f"{content}{call_text(name, given)}"
    text = whole[: length % len(whole)]
    found, calls = folded(read(cut(text, places)))
    assert folded(read([text])) == (found, calls)
    assert content.startswith(found) or text == found
    for called, begun in calls:
        assert called == name and given.startswith(begun)


@given(st.text(), st.lists(st.text()))
def test_any_text_is_passed_on_whole(first: str, others: list[str]) -> None:
    texts = [first, *others]
    if "<tool_call>" not in "".join(texts):
        assert folded(read(texts)) == ("".join(texts), [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "stop"),
        ("text <tool", "stop"),
        (OPEN, "stop"),
        ('<tool_call>\n{"name": "f", "arguments": {"a', "stop"),
        ('<tool_call>\n{"name": "f", "arguments": {}', "tool_calls"),
        (call_text("f", {}), "tool_calls"),
        (f"{call_text('f', {})}\n{OPEN}", "tool_calls"),
    ],
)
def test_why_it_ended(text: str, said: str) -> None:
    reader = CallParser()
    reader.push(text)
    reader.flush()
    # A stop string may cut a call short; then there is none to make.
    assert reader.finish_reason("stop") == said
    for reason in ("length", "cancelled"):
        assert reader.finish_reason(reason) == reason


STOPS = ("\n", "a", "tool", "<tool_call>", "}", '"', "b\na", " a")


@given(
    contents,
    st.lists(st.tuples(names, arguments), max_size=2),
    st.lists(st.integers(0)),
    st.lists(st.sampled_from(STOPS), min_size=1, max_size=3),
)
@example("a", [("f", "{}")], [], ["\n"])
@example("", [("f", '{"a": "\\n"}')], [], ["\n"])
@example("a\n", [("f", "{}")], [], ["\n"])
def test_stop_strings_end_what_the_client_sees_as_text(
    content: str, calls: list[tuple[str, str]], places: list[int], stop: list[str]
) -> None:
    text = content + "\n".join(call_text(name, given) for name, given in calls)
    shown = content.rstrip() if calls else content
    ends = [shown.find(each) for each in stop if each in shown]
    called = [[name, given] for name, given in calls]
    expected = (shown[: min(ends)], []) if ends else (shown, called)
    for pieces in (cut(text, places), list(text), [text]):
        assert folded(read(pieces, stop)) == expected


def test_a_stop_string_ends_the_reading() -> None:
    reader = CallReader(["END"])
    assert reader.read(Delta("r", "one E", 2)) == [Text("one ")]
    assert not reader.is_over
    ended = Ended("stop", 3)
    assert reader.read(Delta("r", "ND two", 1)) == [ended]
    assert reader.is_over


def test_a_stop_string_that_is_held_to_the_end_is_one() -> None:
    reader = CallReader(["\n"])
    assert reader.read(Delta("r", "one\n", 2)) == [Text("one")]
    assert reader.read(Finished("r", "length", 2, 1.0)) == [Ended("stop", 2)]
