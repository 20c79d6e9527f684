"""The methods of strings, on text that a template wrote in part."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError

from gateway.chat.meter import Meter, OutOfWork, TooLong
from gateway.chat.special import SpecialTokens
from gateway.chat.text_methods import TEXT_METHODS, TextMethods

SPECIAL = SpecialTokens(["<s>", "abAB|"])

CALLS: list[tuple[str, tuple[Any, ...]]] = [
    *((name, ()) for name in ("capitalize", "casefold", "lower", "swapcase", "title", "upper")),
    *((name, ()) for name in ("lstrip", "rstrip", "strip", "split", "rsplit", "splitlines")),
    *((name, (chars,)) for name in ("lstrip", "rstrip", "strip") for chars in ("<a", "| x", None)),
    *((name, ("ab",)) for name in ("removeprefix", "removesuffix", "partition", "rpartition")),
    *((name, ("a",)) for name in ("split", "rsplit", "count", "find", "rfind", "startswith")),
    *((name, ("ab", 1)) for name in ("split", "rsplit")),
    *((name, (None, 1)) for name in ("split", "rsplit")),
    ("splitlines", (True,)),
    ("startswith", (("x", "a"),)),
    ("endswith", ("|",)),
    ("replace", ("a", "xx")),
    ("replace", ("ab", "", 1)),
    ("replace", ("", "-")),
    *((name, ()) for name in sorted(TEXT_METHODS) if name.startswith("is")),
]

# A text, and which of its letters the template wrote.
written = st.lists(st.tuples(st.sampled_from([*"<s>abAB|x \n", "É", "ß"]), st.booleans()))


def methods(longest: int = 1000) -> TextMethods:
    return TextMethods(SPECIAL, Meter(longest))


def plain(value: Any) -> Any:
    if isinstance(value, str):
        return SPECIAL.plain(value)
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("name", "args"), CALLS)
@given(letters=written)
def test_a_method_does_what_it_does_whoever_wrote_the_text(
    name: str, args: tuple[Any, ...], letters: list[tuple[str, bool]]
) -> None:
    text = "".join(letter for letter, _ in letters)
    marked = "".join(SPECIAL.mark(letter) if own else letter for letter, own in letters)
    expected = getattr(text, name)(*args)
    for subject in (text, marked):
        for given_args in (args, tuple(map(marked_argument, args))):
            assert plain(methods().call(subject, name, *given_args)) == expected
    assert methods().call(text, name, *args) == expected


def marked_argument(value: Any) -> Any:
    return SPECIAL.mark(value) if isinstance(value, str) else value


def test_the_other_methods() -> None:
    assert methods().call("ab", "index", "b") == methods().call("ab", "rindex", "b") == 1
    assert methods().call(", ", "join", ["a", "b"]) == "a, b"
    assert methods().call("a b c", "split", sep=" ", maxsplit=1) == ["a", "b c"]
    tested = {name for name, _ in CALLS} | {"index", "rindex", "join"}
    assert tested == TEXT_METHODS


@pytest.mark.parametrize("name", ["strip", "split", "partition", "removeprefix", "upper", "lower"])
def test_what_is_left_stays_marked(name: str) -> None:
    args = ("b",) if name in ("split", "partition", "removeprefix") else ()
    result = methods().call(SPECIAL.mark("<s>"), name, *args)
    assert result in (SPECIAL.mark("<s>"), [SPECIAL.mark("<s>")], (SPECIAL.mark("<s>"), "", ""),
                      SPECIAL.mark("<") + "S" + SPECIAL.mark(">"))  # fmt: skip


def test_what_is_put_in_is_marked_as_before() -> None:
    for text in ("a", SPECIAL.mark("a")):
        assert methods().call(text, "replace", "a", SPECIAL.mark("<s>")) == SPECIAL.mark("<s>")
    assert methods().call(SPECIAL.mark("a"), "replace", "a", "<s>") == "<s>"


@pytest.mark.parametrize("name", ["format", "encode", "center", "zfill", "translate", "__class__"])
def test_there_are_no_others(name: str) -> None:
    with pytest.raises(SecurityError, match="no method"):
        methods().call("x", name)


def test_texts_do_not_grow_without_end() -> None:
    methods_that_tire = methods(10_000)
    with pytest.raises(TooLong):
        methods(50).call("x" * 25, "replace", "x", "yyy")
    with pytest.raises(TooLong):
        methods(50).call("x" * 10, "join", ["x"] * 10)
    with pytest.raises(TooLong):
        methods(50).call("x" * 51, "strip")
    with pytest.raises(OutOfWork):
        for _ in range(10**6):
            methods_that_tire.call("x" * 10_000, "upper")
