"""Options of a load test are checked, and what it sends follows from them alone."""

import argparse
import itertools
import statistics

import pytest

from scripts.load.options import Options, add_to, is_good, usage
from scripts.prompts import Prompts, arrivals
from scripts.transcript import Outcome


def read(*arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    add_to(parser, {})
    return Options.read(parser.parse_args(arguments))


def outcome(started: float, content: tuple[float, ...], ended: float) -> Outcome:
    return Outcome("x", "completed", started, ended, content, completion_tokens=len(content))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--scenario x", "invalid choice: 'x'"),
        ("--rate fast", "--rate: 'fast': it must be a number of 0 or more"),
        ("--max-tokens 0", "--max-tokens: '0': it must be a number of 1 or more"),
        ("--warmup nan", "--warmup: 'nan'"),
        ("--rate inf", "--rate: 'inf'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(*arguments.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rate 1 --sweep 1,2", "--rate and --sweep exclude each other"),
        ("--rate 1 --scenario multi-turn", "--rate has no meaning"),
        ("--sweep 1,x", "--sweep 1,x: write auto"),
        ("--sweep 0", "--sweep 0: write auto"),
        *((f"--slo {slo}", f"--slo '{slo}") for slo in ("itl:5", "ttft", "ttft:x", "ttft:-1")),
    ],
)
def test_options_that_contradict_themselves(arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(*arguments.split())


def test_options_are_read_and_explained() -> None:
    options = read("--rate", "2.5", "--no-ignore-eos", "--slo", "ttft:500,e2el:2000")
    assert (options.rate, options.ignore_eos) == (2.5, False)
    assert options.limits_s() == {"ttft": 0.5, "e2el": 2}
    for name in Options.__dataclass_fields__:
        assert name.replace("_", "-") in usage()


def test_a_sweep_goes_to_twice_the_slots() -> None:
    auto = Options(sweep="auto")
    assert auto.steps(1) == [1, 2]
    assert auto.steps(16) == [4, 8, 12, 16, 20, 24, 28, 32]
    assert Options(sweep="1,8").steps(2) == [1, 8]
    assert Options().steps(2) == []


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (outcome(0.0, (0.5, 0.55), 0.6), True),
        (outcome(0.0, (0.6, 0.65), 0.7), False),
        (outcome(0.0, (0.4, 0.5), 0.9), False),
        (outcome(0.0, (0.4,), 2.5), False),
        (outcome(0.0, (0.4,), 1.5), True),  # one token: no time per further one
        (outcome(0.0, (), 0.1), False),
    ],
)
def test_goodput_wants_every_limit_kept(seen: Outcome, expected: bool) -> None:
    limits_s = Options(slo="ttft:500,tpot:100,e2el:2000").limits_s()
    assert is_good(seen, limits_s) is expected


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
    assert prompts.text(0, 1) == Prompts(1, 20).text(0, 1) != Prompts(2, 20).text(0, 1)
    texts = {prompts.text(user, number) for user in range(20) for number in range(20)}
    assert len(texts) == 400
    assert {len(text.split()) for text in texts} == {20}
    a, b = (prompts.completion(0, number).split() for number in range(2))
    assert a[:5] == b[:5] and a[5:] != b[5:]
    system = [prompts.opening(0, number)[0] for number in range(2)]
    assert system[0] == system[1]
    apart = [Prompts(1, 20).opening(0, number)[0] for number in range(2)]
    assert apart[0] != apart[1]
