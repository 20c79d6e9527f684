"""Questions about tokens: which worker gets each, and what becomes of it when none answers."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.pool import questions
from gateway.pool.base import PoolRefused, Question
from gateway.pool.questions import MOST_BYTES, Questions
from shared.errors import ErrorCode
from shared.messages import Detokenize, Tokenize, Tokens


@dataclass
class Handle:
    sent: list[Question] = field(default_factory=list)

    def send(self, question: Question) -> None:
        self.sent.append(question)


@dataclass
class Keeper:
    """What questions see of a worker's place."""

    worker_id: int
    state: str = "ready"
    renewing: bool = False
    handle: Handle = field(default_factory=Handle)

    @property
    def names(self) -> list[str]:
        return [question.request_id for question in self.handle.sent]


class Scene:
    """Some workers, and those who ask them."""

    def __init__(self, workers: int = 2, most: int = 8) -> None:
        self.keepers: Any = [Keeper(worker_id) for worker_id in range(workers)]
        self.running: dict[str, int] = {}
        self.questions = Questions(self.keepers, self.running, most)

    async def ask(self, name: str, text: str = "x") -> "asyncio.Task[Tokens]":
        asking = asyncio.create_task(self.questions.ask(Tokenize(name, (text,))))
        await asyncio.sleep(0)
        return asking

    def answer(self, worker_id: int, name: str) -> None:
        self.questions.on_answer(worker_id, Tokens(name, (worker_id,)))

    def die(self, worker_id: int) -> None:
        self.keepers[worker_id].state = "starting"
        self.questions.on_gone(worker_id)

    def begin(self, worker_id: int) -> None:
        self.keepers[worker_id] = Keeper(worker_id)
        self.questions.send_waiting()

    def expire(self, name: str) -> None:
        self.questions._expire(self.questions._asked[name])

    def sent(self) -> list[list[str]]:
        return [keeper.names for keeper in self.keepers]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


async def refusal(asking: "asyncio.Task[Tokens]") -> ErrorCode:
    with pytest.raises(PoolRefused) as refused:
        await asking
    assert str(refused.value)
    return refused.value.code


def test_an_idle_worker_is_asked_before_one_that_runs() -> None:
    async def work() -> None:
        scene = Scene(3)
        scene.running.update(a=0, b=2)
        asking = await scene.ask("q")
        assert scene.sent() == [[], ["q"], []]
        scene.answer(1, "q")
        assert (await asking).ids == (1,)

    run(work())


def test_a_running_worker_is_asked_if_none_is_idle() -> None:
    async def work() -> None:
        scene = Scene(3)
        scene.running.update(a=0, b=1)
        scene.keepers[2].state = "starting"
        asking = [await scene.ask(f"q{i}") for i in range(2)]
        assert scene.sent() == [["q0"], ["q1"], []]
        scene.answer(0, "q0")
        scene.answer(1, "q1")
        assert [answer.ids for answer in await asyncio.gather(*asking)] == [(0,), (1,)]

    run(work())


def test_both_kinds_of_questions_are_sent_as_they_are() -> None:
    async def work() -> None:
        scene = Scene(1)
        asked: list[Question] = [Tokenize("a", ("x", "<s>", ""), False), Detokenize("b", (1, 2))]
        asking = [asyncio.create_task(scene.questions.ask(question)) for question in asked]
        await asyncio.sleep(0)
        assert scene.keepers[0].handle.sent == asked
        for name in "ba":
            scene.answer(0, name)
        assert [answer.request_id for answer in await asyncio.gather(*asking)] == ["a", "b"]

    run(work())


def test_the_death_of_a_worker_is_not_noticed() -> None:
    async def work() -> None:
        scene = Scene()
        asking = await scene.ask("q")
        scene.die(0)
        assert scene.sent() == [["q"], ["q"]]
        scene.answer(1, "q")
        assert (await asking).ids == (1,)

    run(work())


def test_a_question_that_two_workers_have_died_of_fails() -> None:
    async def work() -> None:
        scene = Scene(3)
        asking = await scene.ask("q")
        scene.die(0)
        scene.die(1)
        assert await refusal(asking) is ErrorCode.WORKER_CRASHED
        assert scene.sent() == [["q"], ["q"], []]

    run(work())


def test_the_deaths_of_other_workers_do_not_count() -> None:
    async def work() -> None:
        scene = Scene(4)
        asking = await scene.ask("q")
        for worker_id in (1, 2):
            scene.die(worker_id)
        scene.die(0)
        scene.answer(3, "q")
        assert (await asking).ids == (3,)

    run(work())


def test_without_a_worker_a_question_waits_for_one() -> None:
    async def work() -> None:
        scene = Scene(1)
        scene.keepers[0].state = "starting"
        waiting = await scene.ask("q")
        scene.begin(0)
        assert scene.sent() == [["q"]]
        scene.die(0)
        scene.begin(0)
        assert scene.sent() == [["q"]], "the next process has it"
        scene.answer(0, "q")
        assert (await waiting).ids == (0,)

    run(work())


def test_more_questions_than_there_may_be_are_refused() -> None:
    async def work() -> None:
        scene = Scene(most=2)
        asking = [await scene.ask(f"q{i}") for i in range(2)]
        assert await refusal(await scene.ask("q2")) is ErrorCode.QUEUE_FULL
        scene.answer(0, "q0")
        await asking[0]
        scene.answer(0, "q2")  # nobody asks that
        asking.append(await scene.ask("q3"))
        scene.answer(0, "q3")
        assert (await asking[2]).request_id == "q3"
        asking[1].cancel()

    run(work())


def test_a_question_that_no_queue_has_room_for_is_refused() -> None:
    async def work() -> None:
        scene = Scene()
        assert await refusal(await scene.ask("q", "x" * MOST_BYTES)) is ErrorCode.BODY_TOO_LARGE
        assert scene.sent() == [[], []]

    run(work())


def test_no_queue_gets_more_than_it_has_room_for() -> None:
    async def work() -> None:
        scene = Scene()
        half = "x" * (MOST_BYTES // 2)
        asking = [await scene.ask(f"q{i}", half) for i in range(4)]
        assert scene.sent() == [["q0"], ["q1"]]
        # Whoever asked may go: what is in the queue stays there until it is read.
        asking[0].cancel()
        asking[3].cancel()
        await asyncio.gather(asking[0], asking[3], return_exceptions=True)
        asking.append(await scene.ask("q4"))
        assert scene.sent() == [["q0", "q4"], ["q1"]], "a short one has room"
        scene.answer(0, "q0")
        assert scene.sent() == [["q0", "q4", "q2"], ["q1"]]
        for worker_id, name in ((1, "q1"), (0, "q4"), (0, "q2")):
            scene.answer(worker_id, name)
        answers = await asyncio.gather(asking[1], asking[4], asking[2])
        assert [answer.ids for answer in answers] == [(1,), (0,), (0,)]

    run(work())


def test_a_death_makes_room() -> None:
    async def work() -> None:
        scene = Scene(1)
        text = "x" * (MOST_BYTES - 1000)
        first, second = await scene.ask("q0", text), await scene.ask("q1", text)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        scene.die(0)
        scene.begin(0)
        assert scene.sent() == [["q1"]]
        scene.answer(0, "q1")
        assert (await second).ids == (0,)

    run(work())


def test_one_that_is_not_answered_in_time_goes_to_another_worker_too() -> None:
    async def work() -> None:
        for by in (0, 1):
            scene = Scene(3)
            asking = await scene.ask("q")
            scene.expire("q")
            assert scene.sent() == [["q"], ["q"], []]
            scene.answer(by, "q")
            scene.answer(1 - by, "q")
            assert (await asking).ids == (by,)

    run(work())


def test_the_first_worker_may_still_answer_if_there_is_no_other() -> None:
    async def work() -> None:
        scene = Scene(1)
        asking = await scene.ask("q")
        scene.expire("q")
        assert scene.sent() == [["q"]]
        scene.answer(0, "q")
        assert (await asking).ids == (0,)

    run(work())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_one_that_nobody_answers_fails(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PATIENCE_S", 0.01)

    async def work() -> None:
        scene = Scene(workers)
        assert await refusal(await scene.ask("q")) is ErrorCode.QUEUE_TIMEOUT
        assert scene.sent() == [["q"], ["q"], []][:workers]

    run(work())


def test_the_end_of_the_pool_ends_all() -> None:
    async def work() -> None:
        scene = Scene(1)
        asking = [await scene.ask("q0"), await scene.ask("q1", "x" * (MOST_BYTES - 100))]
        scene.questions.end_all(ErrorCode.SHUTTING_DOWN, "no more")
        scene.answer(0, "q0")
        assert [await refusal(each) for each in asking] == [ErrorCode.SHUTTING_DOWN] * 2

    run(work())
