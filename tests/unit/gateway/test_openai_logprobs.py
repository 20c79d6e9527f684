"""Log probabilities in both of OpenAI's forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.openai_answer import TextLogprobsFold, chat_logprobs, joined
from shared.logprobs import Candidate, TokenLogprobs


def candidate(raw: bytes, logprob: float | None = -1.0, is_control: bool = False) -> Candidate:
    return Candidate(raw.decode("latin-1"), logprob, is_control)


def token(raw: bytes, *top: Candidate, is_control: bool = False) -> TokenLogprobs:
    return TokenLogprobs(candidate(raw, is_control=is_control), top)


FIRST = TokenLogprobs(candidate(b"A", None))
END = candidate(b"<end>", -3.0, is_control=True)


def test_nothing_is_known_of_a_first_token() -> None:
    told = TextLogprobsFold().feed_echo("AB", [FIRST, token(b"B")])
    assert told["token_logprobs"] == [None, -1.0]
    assert told["top_logprobs"] == [None, {"B": -1.0}]
    (entry,) = chat_logprobs([FIRST])["content"]
    assert entry["logprob"] == -9999.0


@given(st.text(), st.text(), st.data())
def test_offsets_are_those_of_the_letters(echo: str, text: str, data: st.DataObject) -> None:
    def tokens(content: bytes) -> list[TokenLogprobs]:
        cuts = data.draw(st.sets(st.integers(0, len(content))))
        ends = sorted({*cuts, len(content)} - {0})
        return [token(content[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    fold = TextLogprobsFold()
    told = [fold.feed_echo(echo, tokens(echo.encode()))]
    told += [fold.feed([each]) for each in tokens(text.encode())]
    columns = joined(told)
    before = b""
    raws = [each.encode() if not each.startswith("bytes:") else bytes.fromhex(
        each[6:].replace("\\x", "")) for each in columns["tokens"]]  # fmt: skip
    for offset, raw in zip(columns["text_offset"], raws, strict=True):
        # A token that begins in a letter begins where that does.
        assert offset == len(before.decode("utf-8", "ignore"))
        before += raw
    assert before.decode() == echo + text


def test_control_tokens_are_text_in_a_prompt_only() -> None:
    fold = TextLogprobsFold()
    control = token(b"<end>", is_control=True)
    assert fold.feed_echo("a<end>b", [token(b"a"), control, token(b"b")])["text_offset"] == [
        0,
        1,
        6,
    ]
    assert fold.feed([control, token(b"c"), control, token(b"d")])["text_offset"] == [7, 7, 8, 8]


@pytest.mark.parametrize(
    ("text", "raws", "offsets"),
    [
        ("Once upon", [b" Once", b" upon"], [0, 4]),  # with the space of SentencePiece
        ("\ufffd", [b"\xc3"], [0]),  # half a letter
        ("A\ufffd", [b"A", b"\xe6", b"\x97"], [0, 1, 1]),
    ],
)
def test_what_follows_a_prompt_begins_at_its_end(
    text: str, raws: list[bytes], offsets: list[int]
) -> None:
    fold = TextLogprobsFold()
    assert fold.feed_echo(text, [token(raw) for raw in raws])["text_offset"] == offsets
    after = fold.feed([token(b"\xa9"), token(b"x")])["text_offset"]
    assert after == [len(text), len(text) + 1]
