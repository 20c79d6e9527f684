"""Work in a fork, which may do no harm; and the trials of grammars that are made of it."""

import faulthandler
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.grammar import Grammar, GrammarKind
from worker.engines.echo import EchoEngine
from worker.grammar.grammars import Grammars
from worker.grammar.trial import MOST_CPU_S, GrammarRefused, Trial, Trials

DEADLINE_S = 60


def ended(trial: Trial) -> str:
    while (report := trial.result()) is None:
        assert select.select([trial], [], [], DEADLINE_S)[0]
    return report


def test_it_says_what_the_work_says() -> None:
    assert ended(Trial(lambda: "ä" * 1000)) == "ä" * 1000
    assert ended(Trial(lambda: "")) == ""


def test_what_it_does_stays_in_the_fork() -> None:
    seen: list[int] = []

    def work() -> str:
        seen.append(1)
        return str(os.getpid())

    assert ended(Trial(work)) != str(os.getpid())
    assert not seen


def forever() -> str:
    while True:
        pass


def crash(signal_number: int) -> NoReturn:
    faulthandler.disable()  # pytest's, which would print where
    signal.signal(signal_number, signal.SIG_DFL)
    os.kill(os.getpid(), signal_number)
    raise AssertionError


@pytest.mark.parametrize(
    ("work", "how"),
    [
        (forever, f"more than {MOST_CPU_S} s"),
        (lambda: crash(signal.SIGABRT), "crashes or takes more memory"),
        (lambda: crash(signal.SIGSEGV), "crashes or takes more memory"),
        (lambda: "x" * (2 << 30), "crashes or takes more memory"),
    ],
    ids=["forever", "abort", "crash", "memory"],
)
def test_what_does_not_end_by_itself_is_too_expensive(work: Callable[[], str], how: str) -> None:
    with pytest.raises(GrammarRefused, match=how) as caught:
        ended(Trial(work))
    assert caught.value.code is ErrorCode.GRAMMAR_TOO_EXPENSIVE


def children() -> set[str]:
    """The processes whose parent this is; other tests may have left some."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            _, parent = stat.read_text("utf-8", "replace").rpartition(") ")[2].split()[:2]
            if int(parent) == os.getpid():
                found.add(stat.parent.name)
    return found


def test_nothing_is_left_of_it() -> None:
    files, before = set(os.listdir("/proc/self/fd")), children()
    ended(Trial(lambda: "x"))
    with pytest.raises(GrammarRefused):
        ended(Trial(lambda: crash(signal.SIGABRT)))
    assert set(os.listdir("/proc/self/fd")) == files
    assert children() <= before


def test_files_are_not_held_open_by_the_fork() -> None:
    reader, writer = os.pipe()
    trial = Trial(forever)
    os.close(writer)
    assert os.read(reader, 1) == b"", "only the fork could have it open"
    os.close(reader)
    with pytest.raises(GrammarRefused):
        ended(trial)


def regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX.value, source)


def tried(trials: Trials, *grammars: Grammar) -> dict[Grammar, GrammarRefused | None]:
    for grammar in grammars:
        trials.begin(grammar)
    results: dict[Grammar, GrammarRefused | None] = {}
    while len(results) < len(set(grammars)):
        results.update(trials.step())
        if trials.running and len(results) < len(set(grammars)):
            assert select.select(list(trials.running.values()), [], [], DEADLINE_S)[0]
    return results


def test_grammars_that_can_be_used_are_known_from_then_on() -> None:
    grammars = Grammars(EchoEngine(WorkerConfig("echo")))
    grammars.prepare()
    trials = Trials(grammars.problem)
    good, wrong = [regex(f"a{{{n}}}") for n in range(4)], regex("(a")
    results = tried(trials, *good, wrong)
    refusal = results.pop(wrong)
    assert refusal is not None and refusal.code is ErrorCode.INVALID_VALUE
    assert "unclosed group" in str(refusal)
    assert results == dict.fromkeys(good)
    assert all(trials.knows(each) for each in good) and not trials.knows(wrong)


@pytest.mark.parametrize(
    "schema", ['{"type": "integer", "multipleOf": 999983}', None], ids=["multipleOf", "properties"]
)
def test_what_would_take_too_long_is_refused(schema: str | None) -> None:
    grammars = Grammars(EchoEngine(WorkerConfig("echo")))
    grammars.prepare()
    properties = ", ".join(f'"p{i}": {{}}' for i in range(9000))
    source = schema or f'{{"type": "object", "properties": {{{properties}}}}}'
    grammar = Grammar(GrammarKind.JSON_SCHEMA.value, source)
    trials = Trials(grammars.problem)
    assert tried(trials, grammar)[grammar] is not None
    assert not trials.knows(grammar)


def test_a_few_are_tried_at_a_time_and_each_once() -> None:
    trials = Trials(lambda grammar: "")
    many = [regex(str(n)) for n in range(5)]
    for grammar in (*many, *many):
        trials.begin(grammar)
    trials.step()
    assert len(trials.running) <= 2
    assert tried(trials, *many) == dict.fromkeys(many)
    assert trials.step() == []


def test_those_are_known_that_were_used_last() -> None:
    trials = Trials(lambda grammar: "")
    first, *others = [regex(str(n)) for n in range(70)]
    for grammar in (first, *others):
        tried(trials, grammar)
        assert trials.knows(first)
    assert trials.knows(others[-1]) and not trials.knows(others[0])
