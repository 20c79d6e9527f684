"""How keys are written down, and how those of a request are found."""

import hmac
from typing import Any

import pytest

from gateway.auth.keys import ApiKey, KeyRing, parse_keys, presented_keys


def entries(*texts: str) -> list[tuple[str, str]]:
    return [(f"line {number}", text) for number, text in enumerate(texts, 1)]


def brought(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def test_keys_have_the_names_that_they_are_given_or_their_place() -> None:
    ring = parse_keys(entries("first-key", "alice:alices:key", "third-key", "alice:alices-new-key"))
    assert len(ring) == 4
    assert ring.name_of([b"first-key"]) == "key-1"
    assert ring.name_of([b"alices:key"]) == "alice"
    assert ring.name_of([b"third-key"]) == "key-3"
    assert ring.name_of([b"alices-new-key"]) == "alice"
    for wrong in (b"", b"alice", b"alice:alices:key", b"first-ke", b"first-key ", b"FIRST-KEY"):
        assert ring.name_of([wrong]) is None
    assert ring.name_of([]) is None


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ((), "there is no key"),
        (("good-key", "short"), "line 2: a key must have at least 8 characters"),
        (("name:",), "line 1: a key must be of visible"),
        (("with a space",), "line 1: a key must be of visible"),
        (("schlüssel-1",), "line 1: a key must be of visible"),
        (("a b:long-enough",), "line 1: the name before the colon"),
        ((":long-enough",), "line 1: the name before the colon"),
        (("a\nb:long-enough",), "line 1: the name before the colon"),
        (("a:good-key", "b:good-key"), "line 2: this key is there already, as a"),
    ],
)
def test_what_cannot_be_a_key_is_said_without_the_key(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_keys(entries(*texts))
    assert str(caught.value).startswith(says)
    for text in texts:
        assert text.partition(":")[2] == "" or text.partition(":")[2] not in str(caught.value)
        assert text not in str(caught.value)


def test_a_ring_keeps_no_key() -> None:
    ring = parse_keys(entries("bob:a-secret-key"))
    assert "a-secret-key" not in repr(ring) + repr(vars(ring))


def test_every_key_is_compared_with_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def comparing(one: bytes, other: bytes, real: Any = hmac.compare_digest) -> bool:
        compared.append(one)
        assert len(one) == len(other)
        return bool(real(one, other))

    monkeypatch.setattr("gateway.auth.keys.hmac.compare_digest", comparing)
    ring = KeyRing(ApiKey(f"n{i}", bytes([i]) * 32) for i in range(5))
    assert ring.name_of([b"x"]) is None
    assert len(compared) == 5
    named = parse_keys(entries("first-key", "other-key", "third-key"))
    compared.clear()
    assert named.name_of([b"first-key", b"nothing"]) == "key-1"
    assert len(compared) == 6


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ((), []),
        (((b"authorization", b"Bearer abc"),), [b"abc"]),
        (((b"authorization", b"bEARER   abc "),), [b"abc"]),
        (((b"authorization", b"Basic abc"),), []),
        (((b"authorization", b"abc"),), []),
        (((b"authorization", b"Bearer"),), [b""]),
        (((b"x-api-key", b" abc "),), [b"abc"]),
        (((b"x-api-key", b"plain"), (b"authorization", b"Bearer b")), [b"b", b"plain"]),
        (((b"x-api-key", b"one"), (b"x-api-key", b"two")), [b"one"]),
        (((b"authorization", b"Bearer \xff\xfe"),), [b"\xff\xfe"]),
    ],
)
def test_presented_keys(headers: tuple[tuple[bytes, bytes], ...], keys: list[bytes]) -> None:
    assert presented_keys(brought(*headers)) == keys


def test_of_two_keys_either_may_be_good_and_the_bearer_counts_first() -> None:
    ring = parse_keys(entries("a:key-of-a", "b:key-of-b"))
    assert ring.name_of([b"wrong", b"key-of-b"]) == "b"
    assert ring.name_of([b"key-of-a", b"wrong"]) == "a"
    assert ring.name_of([b"key-of-a", b"key-of-b"]) == "a"
