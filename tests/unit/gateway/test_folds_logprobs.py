"""Log probabilities, echoed prompts and the best of several: in a stream and as an object."""

from typing import Any

import orjson
import pytest
from gateway.openai.folds import ObjectFold, Progress, StreamFold
from gateway.openai.translate import AnswerPlan, plan_answer
from gateway.openai.validation import chat_request, completion_request
from hypothesis import given
from hypothesis import strategies as st

from shared.logprobs import Candidate, TokenLogprobs
from shared.messages import Delta, Finished, Prefilled
from tests.unit.gateway.fakes import CONFIG

openai_types = pytest.importorskip("openai.types")
chat_types = pytest.importorskip("openai.types.chat")


def completion(**body: Any) -> AnswerPlan:
    return plan_answer(completion_request({"prompt": "x", "model": "m", **body}), [("x",)], CONFIG)


def chat(**body: Any) -> AnswerPlan:
    messages = [{"role": "user", "content": "x"}]
    return plan_answer(chat_request({"messages": messages, "model": "m", **body}), [("x",)], CONFIG)


def token(raw: bytes, logprob: float | None = -1.5, *top: bytes) -> TokenLogprobs:
    others = [Candidate(other.decode("latin-1"), -0.5) for other in top]
    return TokenLogprobs(Candidate(raw.decode("latin-1"), logprob), tuple(others))


def prefilled(echo: str = "", told: tuple[TokenLogprobs, ...] = ()) -> Progress:
    return Prefilled("r", 5, 2, 1.0, echo, told)


def delta(text: str, *told: TokenLogprobs) -> Progress:
    return Delta("r", text, max(1, len(told)), told)


def finished(reason: str = "stop", tokens: int = 2) -> Progress:
    return Finished("r", reason, tokens, 1.0)


def streamed(plan: AnswerPlan, *happened: Progress) -> list[Any]:
    """The choices of a stream."""
    fold = StreamFold(plan)
    raw = b"".join([fold.feed(0, event) for event in happened]) + fold.end()
    *blocks, done, rest = raw.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [orjson.loads(block.removeprefix(b"data: ")) for block in blocks]
    if plan.chat:
        for chunk in chunks:
            chat_types.ChatCompletionChunk.model_validate(chunk, strict=True)
    return [chunk["choices"][0] for chunk in chunks]


def whole(plan: AnswerPlan, *arrivals: tuple[int, Progress]) -> Any:
    fold = ObjectFold(plan)
    for index, event in arrivals:
        fold.feed(index, event)
    return fold.result()


def single(plan: AnswerPlan, *happened: Progress) -> Any:
    """The one choice of an object."""
    (choice,) = whole(plan, *((0, event) for event in happened))["choices"]
    return choice


COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
TOLD = [
    prefilled(),
    delta("Hi", token(b"H", -1.5, b"h"), token(b"i", -0.25, b"i")),
    delta("é", token(b"\xc3"), token(b"\xa9")),
    finished(tokens=4),
]


def test_of_a_chat() -> None:
    choice = single(chat(logprobs=True, top_logprobs=1), *TOLD)
    entries = choice["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[72], [105], [0xC3], [0xA9]]
    assert [entry["logprob"] for entry in entries] == [-1.5, -0.25, -1.5, -1.5]
    assert entries[0]["top_logprobs"] == [{"token": "h", "logprob": -0.5, "bytes": [104]}]
    assert choice["logprobs"]["refusal"] is None
    role, *pieces, last = streamed(chat(logprobs=True, top_logprobs=1, stream=True), *TOLD)
    assert role["logprobs"] is None and last["logprobs"] is None
    assert [e for piece in pieces for e in piece["logprobs"]["content"]] == entries
    assert [piece["delta"]["content"] for piece in pieces] == ["Hi", "é"]


def test_of_a_completion() -> None:
    choice = single(completion(logprobs=1), *TOLD)
    assert choice["logprobs"] == {
        "tokens": ["H", "i", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-1.5, -0.25, -1.5, -1.5],
        "top_logprobs": [
            {"h": -0.5, "H": -1.5}, {"i": -0.25}, {"bytes:\\xc3": -1.5}, {"bytes:\\xa9": -1.5}
        ],
        "text_offset": [0, 1, 2, 2],
    }  # fmt: skip
    *pieces, last = streamed(completion(logprobs=1, stream=True), *TOLD)
    assert last["logprobs"] is None
    for column in COLUMNS:
        joined = [each for piece in pieces for each in piece["logprobs"][column]]
        assert joined == choice["logprobs"][column]


@pytest.mark.parametrize("form", [{"stream": False}, {"stream": True}])
@pytest.mark.parametrize("plan", [chat, completion])
def test_only_if_asked_for(plan: Any, form: dict[str, Any]) -> None:
    made = plan(**form)
    happened = [prefilled(), delta("Hi"), finished()]
    choices = streamed(made, *happened) if form["stream"] else [single(made, *happened)]
    assert all(choice["logprobs"] is None for choice in choices)


def test_none_of_no_tokens() -> None:
    nothing = [prefilled(), finished(tokens=0)]
    assert single(chat(logprobs=True), *nothing)["logprobs"] == {"content": [], "refusal": None}
    empty: dict[str, list[Any]] = {column: [] for column in COLUMNS}
    assert single(completion(logprobs=0), *nothing)["logprobs"] == empty


def test_a_token_without_text_is_told_of() -> None:
    happened = [prefilled(), delta("a", token(b"a")), delta("", token(b"")), finished()]
    for plan in (chat(logprobs=True, stream=True), completion(logprobs=0, stream=True)):
        *_, empty, _ = streamed(plan, *happened)
        assert empty["logprobs"] is not None
    assert len(single(chat(logprobs=True), *happened)["logprobs"]["content"]) == 2


ECHO = "Aé"
ECHOED = (token(b"A", None), token(b"\xc3"), token(b"\xa9"))


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_prompt_comes_first(logprobs: int | None) -> None:
    told = () if logprobs is None else ECHOED
    after = () if logprobs is None else (token(b"B"), token(b"C"))
    happened = [prefilled(ECHO, told), delta("BC", *after), finished()]
    choice = single(completion(echo=True, logprobs=logprobs), *happened)
    assert choice["text"] == "AéBC"
    pieces = streamed(completion(echo=True, logprobs=logprobs, stream=True), *happened)
    assert [piece["text"] for piece in pieces] == ["Aé", "BC", ""]
    if logprobs is None:
        assert choice["logprobs"] is None
        assert all(piece["logprobs"] is None for piece in pieces)
        return
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2, 3]
    assert choice["logprobs"]["token_logprobs"] == [None, *[-1.5] * 4]
    assert choice["logprobs"]["top_logprobs"][0] is None
    for column in COLUMNS:
        joined = [each for piece in pieces[:2] for each in piece["logprobs"][column]]
        assert joined == choice["logprobs"][column]


def test_a_prompt_alone() -> None:
    happened = [prefilled(ECHO, ECHOED), finished("length", tokens=0)]
    choice = single(completion(echo=True, logprobs=0, max_tokens=0), *happened)
    assert (choice["text"], choice["finish_reason"]) == (ECHO, "length")
    assert len(choice["logprobs"]["tokens"]) == 3
    text, last = streamed(completion(echo=True, logprobs=0, max_tokens=0, stream=True), *happened)
    assert (text["text"], last["text"], last["finish_reason"]) == (ECHO, "", "length")
    assert text["logprobs"] == choice["logprobs"]


def test_the_short_form_with_its_prompt_is_text_alone() -> None:
    happened = [(0, event) for event in (prefilled("ab"), delta("c"), finished())]
    assert whole(completion(echo=True, model=None), *happened) == "abc"


@given(st.text(min_size=1, max_size=8), st.text(max_size=12), st.data())
def test_a_stream_says_what_an_object_says(echo: str, text: str, data: st.DataObject) -> None:
    def cut(length: int) -> list[tuple[int, int]]:
        ends = sorted({*data.draw(st.sets(st.integers(0, length))), length} - {0})
        return list(zip([0, *ends], ends, strict=False))

    def tokens(content: bytes) -> tuple[TokenLogprobs, ...]:
        return tuple(token(content[a:b]) for a, b in cut(len(content)))

    deltas = [delta(text[a:b], *tokens(text[a:b].encode())) for a, b in cut(len(text))]
    happened = [prefilled(echo, tokens(echo.encode())), *deltas, finished()]
    choice = single(completion(echo=True, logprobs=2), *happened)
    *pieces, last = streamed(completion(echo=True, logprobs=2, stream=True), *happened)
    assert "".join(piece["text"] for piece in pieces) == choice["text"] == echo + text
    assert last["finish_reason"] == choice["finish_reason"]
    for column in COLUMNS:
        joined = [each for piece in pieces for each in piece["logprobs"][column]]
        assert joined == choice["logprobs"][column]
    # A piece that begins with a token begins at its offset.
    length = 0
    for piece in pieces:
        assert piece["logprobs"]["text_offset"][0] == length
        length += len(piece["text"])


def of_likelihoods(*logprobs: float) -> list[Progress]:
    tokens = [token(b"x", logprob) for logprob in logprobs]
    return [prefilled(), *(delta("x", each) for each in tokens), finished(tokens=len(tokens))]


# By what they say: a mean of -1, of -2 and of -0.5, and nothing at all.
CANDIDATES = {"xx": (-1.9, -0.1), "x": (-2.0,), "xxx": (-0.5, -0.5, -0.5), "": ()}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("order", [["xx", "x", "xxx", ""], ["", "xxx", "x", "xx"]])
def test_the_best_are_those_of_the_likeliest_tokens(n: int, order: list[str]) -> None:
    plan = completion(n=n, best_of=4)
    assert [g.logprobs for g in plan.generations] == [0] * 4
    arrivals = [
        (index, event)
        for index, text in enumerate(order)
        for event in of_likelihoods(*CANDIDATES[text])
    ]
    answer = whole(plan, *arrivals)
    openai_types.Completion.model_validate(answer, strict=True)
    assert [choice["text"] for choice in answer["choices"]] == ["xxx", "xx", "x"][:n]
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    # All that was generated counts, and the prompt once.
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 6)


def test_the_best_of_each_prompt() -> None:
    request = completion_request({"prompt": ["a", "b"], "model": "m", "best_of": 2, "logprobs": 3})
    plan = plan_answer(request, [("a",), ("b",)], CONFIG)
    assert [g.logprobs for g in plan.generations] == [3] * 4
    values = (-1.0, -2.0, -4.0, -3.0)
    arrivals = [(i, event) for i, value in enumerate(values) for event in of_likelihoods(value)]
    answer = whole(plan, *arrivals)
    found = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert found == [[-1.0], [-3.0]]
    assert answer["usage"]["prompt_tokens"] == 10
    short = plan_answer(request.model_copy(update={"model": None}), [("a",), ("b",)], CONFIG)
    assert whole(short, *arrivals) == ["x", "x"]


def test_as_many_as_are_given_are_all_given_in_order() -> None:
    plan = completion(n=2, best_of=2)
    arrivals = [(i, e) for i, v in enumerate((-2.0, -1.0)) for e in of_likelihoods(v)]
    assert [g.logprobs for g in plan.generations] == [None, None]
    assert len(whole(plan, *arrivals)["choices"]) == 2
