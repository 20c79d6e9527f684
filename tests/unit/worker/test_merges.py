"""Tests of finding the merges in a vocabulary."""

from collections.abc import Sequence

from worker.tokenizer.merges import rebuild_merges

BYTES = [bytes((byte,)) for byte in range(256)]


def merges_of(*tokens: bytes, left_out: Sequence[int] = ()) -> list[tuple[str, str]]:
    return rebuild_merges([*BYTES, *tokens], left_out)


def test_the_last_two_parts_are_the_merge() -> None:
    assert merges_of(b"he", b"ll", b"llo", b"hello") == [
        ("h", "e"),
        ("l", "l"),
        ("ll", "o"),
        ("he", "llo"),
    ]


def test_earlier_merges_come_first() -> None:
    # With "bc" first, "abc" cannot be made of "ab".
    assert merges_of(b"bc", b"ab", b"abc")[-1] == ("a", "bc")
    assert merges_of(b"ab", b"bc", b"abc")[-1] == ("ab", "c")


def test_equal_merges_are_done_from_the_left() -> None:
    assert merges_of(b"aa", b"aaa", b"aaaaa")[1:] == [("aa", "a"), ("aa", "aaa")]
    assert merges_of(b"aa", b"aaaa", b"aaaaaa")[-1] == ("aaaa", "aa")


def test_merges_are_in_byte_letters() -> None:
    assert merges_of(b" t", b"\0\n", "é".encode()) == [("Ġ", "t"), ("Ā", "Ċ"), ("Ã", "©")]


def test_what_was_not_merged_has_no_merge() -> None:
    assert merges_of(b"", b"<|im_end|>", b"[PAD151]") == []
    # And is no part of another's.
    assert merges_of(b"abcd", b"abcde") == []


def test_of_copies_the_first_counts() -> None:
    assert merges_of(b"ab", b"abc", b"ab", b"abc") == [("a", "b"), ("ab", "c")]
    assert rebuild_merges([*BYTES, b"a", b"ab", b"b", b"bb"], ()) == [("a", "b"), ("b", "b")]


def test_added_tokens_are_left_out() -> None:
    assert merges_of(b"  ", b"    ", b"   ") == [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("ĠĠ", "Ġ")]
    assert merges_of(b"  ", b"    ", b"   ", left_out=[257, 258]) == [("Ġ", "Ġ")]


def test_a_token_of_absurd_length_takes_no_time() -> None:
    assert merges_of(b"aa", b"a" * 10_000_000) == [("a", "a")]


def test_an_empty_vocabulary() -> None:
    assert rebuild_merges([], ()) == []
