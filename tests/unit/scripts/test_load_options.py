"""What a load test is told is checked, and what it sends follows from it alone."""

import itertools
import json
import statistics
from typing import Any

import pytest

from scripts.load import report
from scripts.load.metrics import Window, summarize
from scripts.load.options import Objectives, Options, usage
from scripts.load.report import Check
from scripts.load.scenario import Request, Run, Scenario, Step
from scripts.prompts import Prompts, arrivals
from scripts.transcript import Outcome


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scenario": "x"}, "--scenario x: it must be one of chat"),
        ({"rate": "fast"}, "--rate 'fast': it must be a number"),
        ({"max_tokens": "0"}, "--max-tokens 0: it must be 1 or more"),
        ({"warmup": "nan"}, "--warmup nan"),
        ({"burstiness": "0"}, "--burstiness 0.0: it must be above 0"),
        ({"rate": "1", "sweep": "1,2"}, "--rate and --sweep exclude each other"),
        ({"rate": "1", "scenario": "burst"}, "--rate has no meaning"),
        ({"sweep": "1,x"}, "--sweep 1,x: write auto"),
        ({"sweep": "0"}, "--sweep 0: write auto"),
        ({"slo": "itl:5"}, "--slo 'itl:5'"),
    ],
)
def test_what_is_not_allowed_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        Options.read(values)


def test_text_is_read_as_the_web_page_gives_it() -> None:
    options = Options.read({"rate": "2.5", "ignore_eos": "false", "seed": "7", "users": "3"})
    assert (options.rate, options.ignore_eos, options.seed) == (2.5, False, 7)
    assert Options.read({"ignore_eos": True, "slo": None}) == Options()


def test_every_option_is_explained() -> None:
    text = usage()
    for name in Options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')} " in text or f"--no-{name.replace('_', '-')} " in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_sweep_goes_to_twice_the_workers() -> None:
    auto = Options(sweep="auto")
    assert auto.steps(1) == [1, 2]
    assert auto.steps(2) == [1, 2, 3, 4]
    assert auto.steps(16) == [4, 8, 12, 16, 20, 24, 28, 32]
    assert Options(sweep="1,8").steps(2) == [1, 8]
    assert Options().steps(2) == []


def test_arrivals_have_the_rate_and_the_burstiness() -> None:
    def drawn(burstiness: float, user: int = 0) -> list[float]:
        return list(itertools.islice(arrivals(4.0, burstiness, 1, user), 20_000))

    for burstiness in (0.25, 1.0, 4.0):
        times = drawn(burstiness)
        assert statistics.mean(times) == pytest.approx(1 / 4, rel=0.05)
        # A gamma distribution of shape k has a coefficient of variation of 1 / sqrt(k).
        variation = statistics.pstdev(times) / statistics.mean(times)
        assert variation == pytest.approx(burstiness**-0.5, rel=0.05)
    assert drawn(1.0) == drawn(1.0)
    assert not set(drawn(1.0)) & set(drawn(1.0, user=1))


def test_prompts_are_repeatable_and_share_only_what_they_should() -> None:
    prompts = Prompts(seed=1, n_words=20, shared_prefix=5)
    assert prompts.text(0, 1) == Prompts(1, 20).text(0, 1)
    assert prompts.text(0, 1) != Prompts(2, 20).text(0, 1)
    texts = {prompts.text(user, number) for user in range(20) for number in range(20)}
    assert len(texts) == 400
    assert {len(text.split()) for text in texts} == {20}
    a, b = (prompts.completion(0, number).split() for number in range(2))
    assert a[:5] == b[:5]
    assert a[5:] != b[5:]
    system = [prompts.opening(0, number)[0] for number in range(2)]
    assert system[0] == system[1]
    apart = [Prompts(1, 20).opening(0, number)[0] for number in range(2)]
    assert apart[0] != apart[1]


def test_every_request_is_of_fixed_length_and_asks_for_usage() -> None:
    for name in ("chat", "completions"):
        scenario = Scenario(Options(scenario=name, max_tokens=9, seed=3), "m", user=0)
        bodies = [scenario.single().body for _ in range(2)]
        assert bodies[0] != bodies[1]
        for body in bodies:
            assert (body["max_tokens"], body["seed"], body["temperature"]) == (9, 3, 0)
            assert body["stream_options"] == {"include_usage": True}
            assert body["ignore_eos"] is True
    plain = Scenario(Options(ignore_eos=False), "m", user=0).single()
    assert "ignore_eos" not in plain.body


def test_a_chat_carries_its_answers_along_and_ends_at_a_failure() -> None:
    sent: list[Request] = []

    def send(request: Request) -> Outcome:
        sent.append(request)
        kind = "completed" if len(sent) < 3 else "failed"
        return Outcome("x", kind, 0.0, 1.0, text=f"answer {len(sent)}")  # type: ignore[arg-type]

    scenario = Scenario(Options(scenario="multi-turn", turns=4), "m", user=0)
    assert [outcome.kind for outcome in scenario.chat(send)] == ["completed"] * 2 + ["failed"]
    assert [request.name for request in sent] == ["turn-1", "turn-2", "turn-3"]
    first, second, third = (request.body["messages"] for request in sent)
    assert second[: len(first)] == first
    assert second[len(first)] == {"role": "assistant", "content": "answer 1"}
    assert third[: len(second)] == second
    assert [message["role"] for message in third] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip


# ---- the report


def test_the_report_in_three_forms() -> None:
    outcomes = [
        Outcome("x", "completed", 0.0, 2.0, (0.5, 1.0), completion_tokens=2, has_usage=True),
        Outcome("x", "failed", 0.0, 1.0, code="timeout"),
    ]
    summaries = [
        summarize(outcomes, Window(0.0, 4.0), Objectives(), users=1),
        summarize([], Window(4.0, 8.0), Objectives(), users=2),
    ]
    checks = [Check("c", False, "why")]
    text = report.table(summaries, checks)
    assert "errors: timeout 1" in text
    assert "FAILED: c: why" in text
    assert "| 1 | 0.25 | 0.5 | 500 | 1,500.0 | 1 | 0 |" in text
    content = report.as_json({"seed": 1}, summaries, checks)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["steps"][0]["ttft"]["p99"] == 500
    assert content["steps"][1]["ttft"]["p99"] is None
    head, first, second = report.as_csv(summaries).splitlines()
    rows = [dict(zip(head.split(","), row.split(","), strict=True)) for row in (first, second)]
    assert rows[0]["ttft_p99_ms"] == "500.0"
    assert rows[0]["error_code_frequency"] == "timeout:1"
    assert rows[1]["ttft_p99_ms"] == ""


def test_each_step_is_measured_without_its_warm_up() -> None:
    run = Run(Options(warmup=1.0, sweep="1,2", api_key="secret"), "http://x", "m")
    run._steps = [Step(1, 0.0, 10.0), Step(2, 10.0, 20.0)]
    for begin in (0.0, 10.0):
        run.outcomes += [
            Outcome("x", "completed", begin + 0.5, begin + 0.9),
            Outcome("x", "completed", begin + 2.0, begin + 3.0),
        ]
    found = [(s.users, s.seconds, s.completed) for s in run.summaries()]
    assert found == [(1, 9.0, 1), (2, 9.0, 1)]
    assert "secret" not in str(run.settings())


@pytest.mark.parametrize(
    ("outcome", "detail"),
    [
        (Outcome("x", "completed", 0.0, 1.0), "raise --burst-size"),
        (Outcome("x", "refused", 0.0, 1.0), "1 of them without"),
    ],
)
def test_a_burst_without_a_proper_refusal_proves_nothing(outcome: Outcome, detail: str) -> None:
    run = Run(Options(scenario="burst"), "http://127.0.0.1:9", "m", [outcome])
    refusal, free = run.checks()
    assert not refusal.passed and detail in refusal.detail
    assert not free.passed, "nobody answers there"
