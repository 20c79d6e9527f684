"""Events are found whatever the pieces in which they come, and however servers write them."""

import pytest

from scripts.load.sse import EventParser, ServerEvent


def parsed(*pieces: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_any_cut_gives_the_same_events(end: bytes) -> None:
    lines = [b"\xef\xbb\xbf: comment", b"data: a \xf0\x9f\x99\x82", b"", b"event: x", b"data:b"]
    stream = end.join([*lines, b"data: c", b"", b""])
    expected = [ServerEvent("message", "a 🙂"), ServerEvent("x", "b\nc")]
    assert parsed(stream) == expected
    assert parsed(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    for cut in range(len(stream)):
        assert parsed(stream[:cut], stream[cut:]) == expected


def test_an_event_is_told_as_soon_as_its_empty_line_is_there() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [ServerEvent("message", "a")]
    assert parser.feed(b"\n\n: ping\n\n") == []


def test_a_last_event_without_its_empty_line_is_kept() -> None:
    assert parsed(b"data: a\n\ndata: b") == [
        ServerEvent("message", "a"),
        ServerEvent("message", "b"),
    ]


def test_an_error_field_is_an_event() -> None:
    assert parsed(b'error: {"code":1}\n\n') == [ServerEvent("error", '{"code":1}')]


def test_other_fields_and_empty_events_are_no_events() -> None:
    assert parsed(b"id: 1\nretry: 5\n\nevent: x\n\ndata\n\n") == [ServerEvent("message", "")]
