"""Questions about prompts to real preparers, which die, hang or are asked for too much."""

import asyncio
import gc
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.base import PoolRefused
from gateway.pool.local import LocalPool
from gateway.pool.watch import activity
from shared.errors import ErrorCode
from shared.grammar import Grammar, GrammarKind
from shared.messages import Chat, Detokenize, Failed, Prepare, Prepared, Question, Text
from tests.integration import preparers
from tests.integration.pools import LONG, all_idle, ask, collect, kill, ready, run, text_of, until
from tests.serving import DEADLINE_S
from tests.unit.worker.prompt.bombs import BOMBS

HELLO, IDS = "Hé", (72, 195, 169)
USER = {"role": "user", "content": "Hi"}
SLOW = Grammar(
    GrammarKind.JSON_SCHEMA.value, '{"type": "integer", "multipleOf": 999983, "minimum": 5}'
)
_numbers = itertools.count()


def text(content: str = HELLO, **more: Any) -> Prepare:
    return Prepare(f"question-{next(_numbers)}", Text(content), **more)


def chat(template: str = "{{ messages[0].content }}") -> Prepare:
    """For `preparers.obeys`."""
    return Prepare(f"chat-{next(_numbers)}", Chat(({"role": "user", "content": template},)))


async def prepared(pool: LocalPool, question: Question) -> Prepared:
    answer = await asyncio.wait_for(pool.prepare(question), DEADLINE_S)
    assert isinstance(answer, Prepared), answer
    return answer


async def refused(pool: LocalPool, question: Question) -> ErrorCode:
    with pytest.raises(PoolRefused) as error:
        await asyncio.wait_for(pool.prepare(question), DEADLINE_S)
    return error.value.code


def pid_of(pool: LocalPool, place: int = 0) -> int:
    process = pool._preparers.keepers[place].process
    assert process is not None
    return process.pid


@asynccontextmanager
async def busy(pool: LocalPool) -> AsyncIterator[None]:
    async with aclosing(pool.generate(ask(LONG))) as events:
        await anext(events)
        yield
    await until(pool, all_idle)


def test_questions_are_answered_whatever_runs() -> None:
    async def work() -> None:
        async with ready(workers=1, delay_ms=20) as pool, busy(pool):
            assert (await prepared(pool, text())).ids == IDS
            answer = await prepared(pool, text(wants_text=True, wants_pieces=True))
            assert (answer.text, answer.pieces) == (HELLO, ("H", "\ufffd", "\ufffd"))
            back = await prepared(pool, Detokenize("back", (*IDS, 256)))
            assert (back.ids, back.text) == ((*IDS, 256), f"{HELLO}<end>")
            own = await prepared(pool, Prepare("chat", Chat((USER,)), "messages"))
            assert own.ids == tuple(b"Hi")
            too_long = Prepare("c", Chat(({"role": "user", "content": "x" * 9000},)), "messages")
            answer_ = await pool.prepare(too_long)
            assert isinstance(answer_, Failed) and answer_.code == "context_length_exceeded"
            assert answer_.param == "messages" and "the prompt has 9000" in answer_.message

    run(work())


def test_many_at_once_are_all_answered() -> None:
    async def work() -> None:
        async with ready(workers=1, preparers=2, max_queue=98) as pool:
            texts = [f"text {i} " * (i * 10) for i in range(200)]
            answers = await asyncio.gather(*(prepared(pool, text(each)) for each in texts))
            assert [bytes(answer.ids).decode() for answer in answers] == texts

    run(work())


def test_there_are_only_so_many_open() -> None:
    async def work() -> None:
        async with ready(workers=1, max_queue=1, preparer=preparers.obeys) as pool:
            os.kill(pid_of(pool), signal.SIGSTOP)
            asking = [asyncio.ensure_future(prepared(pool, text())) for _ in range(8)]
            await asyncio.sleep(0)
            assert await refused(pool, text()) is ErrorCode.QUEUE_FULL
            os.kill(pid_of(pool), signal.SIGCONT)
            assert {answer.ids for answer in await asyncio.gather(*asking)} == {IDS}

    run(work())


def test_a_large_question_to_a_stopped_process_does_not_block_the_loop() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            os.kill(pid_of(pool), signal.SIGSTOP)
            asking = asyncio.ensure_future(prepared(pool, text("x" * 1_000_000)))
            began_s = time.monotonic()
            await asyncio.sleep(0)
            assert text_of(await collect(pool.generate(ask("hello")))) == "hello"
            assert time.monotonic() - began_s < DEADLINE_S / 4
            os.kill(pid_of(pool), signal.SIGCONT)
            assert len((await asking).ids) == 1_000_000

    run(work())


def test_the_death_of_the_preparer_is_not_noticed(tmp_path: Path) -> None:
    async def work() -> None:
        async with ready(workers=1, preparer=preparers.obeys) as pool:
            await kill(pid_of(pool))
            assert (await prepared(pool, text())).ids == IDS
            for name in ("SIGKILL", "SIGSEGV"):
                order = f"once {name} {tmp_path / name}"
                both = await asyncio.gather(
                    prepared(pool, text(order)), prepared(pool, text()), prepared(pool, text())
                )
                assert bytes(both[0].ids).decode() == order
                assert {answer.ids for answer in both[1:]} == {IDS}

    run(work())


def test_a_stopped_preparer_is_replaced() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            pid = pid_of(pool)
            os.kill(pid, signal.SIGSTOP)
            assert (await prepared(pool, text())).ids == IDS
            assert pid_of(pool) != pid

    run(work())


def test_a_question_that_kills_again_and_again_fails_alone() -> None:
    async def work() -> None:
        async with ready(workers=1, preparer=preparers.obeys) as pool:
            killing = asyncio.ensure_future(refused(pool, text("signal SIGSEGV")))
            others = await asyncio.gather(*(prepared(pool, text()) for _ in range(5)))
            assert {answer.ids for answer in others} == {IDS}
            assert await killing is ErrorCode.WORKER_CRASHED

    run(work())


def test_a_question_that_takes_too_long_fails_alone() -> None:
    async def work() -> None:
        async with ready(workers=1, preparer=preparers.obeys) as pool:
            spinning = asyncio.ensure_future(refused(pool, text("spin")))
            assert (await prepared(pool, text())).ids == IDS
            assert await spinning is ErrorCode.WORKER_CRASHED

    run(work())


def test_whoever_goes_away_is_forgotten() -> None:
    async def work() -> None:
        async with ready(workers=1, preparer=preparers.obeys) as pool:
            pid = pid_of(pool)
            os.kill(pid, signal.SIGSTOP)
            leaving = [asyncio.ensure_future(prepared(pool, text())) for _ in range(3)]
            await asyncio.sleep(0)
            for each in leaving:
                each.cancel()
            os.kill(pid, signal.SIGCONT)
            assert (await prepared(pool, text())).ids == IDS
            assert pid_of(pool) == pid and pool._preparers._n_open == 0

    run(work())


def test_a_slow_grammar_holds_up_nobody_else() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            await prepared(pool, text(grammar=Grammar(GrammarKind.REGEX.value, "a+")))
            slow = asyncio.ensure_future(pool.prepare(text(grammar=SLOW)))
            good = Grammar(GrammarKind.REGEX.value, "b+")
            answers = [await prepared(pool, text()), await prepared(pool, text(grammar=good))]
            assert {answer.ids for answer in answers} == {IDS}
            assert not slow.done()
            failed = await slow
            assert isinstance(failed, Failed) and failed.param == "grammar"
            assert failed.code in ("grammar_too_expensive", "invalid_value")
            assert failed.message.startswith("cannot be used: ")

    run(work())


def test_a_trial_survives_the_preparer() -> None:
    async def work() -> None:
        async with ready(workers=1) as pool:
            slow = asyncio.ensure_future(pool.prepare(text(grammar=SLOW)))
            assert (await prepared(pool, text())).ids == IDS
            await kill(pid_of(pool))
            assert isinstance(await slow, Failed)

    run(work())


def test_closing_ends_what_is_open() -> None:
    async def work() -> None:
        async with ready(workers=1, preparer=preparers.obeys) as pool:
            os.kill(pid_of(pool), signal.SIGSTOP)
            asking = [asyncio.ensure_future(refused(pool, text())) for _ in range(3)]
            await asyncio.sleep(0)
            await pool.close()
            assert await asyncio.gather(*asking) == [ErrorCode.SHUTTING_DOWN] * 3
            assert await refused(pool, text()) is ErrorCode.SHUTTING_DOWN

    run(work())


# Most end by their fuel, some only with the process, by its CPU time or memory.
_BOMBS = BOMBS[::4]
_MOST_STALL_S = 0.05
_MOST_KIB = (1 << 20) + (200 << 10)  # what a preparer may take, and what it has from the zygote


def waited_s() -> float:
    """How long this thread has waited for a core, which is nobody's fault here."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


@contextmanager
def stalls() -> Iterator[list[float]]:
    """For how many seconds each callback of the event loop holds up all others."""
    found: list[float] = []
    run_handle = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        waited_before_s, began_s = waited_s(), time.monotonic()
        run_handle(handle)
        found.append(time.monotonic() - began_s - (waited_s() - waited_before_s))

    gc.disable()  # what it walks through is the tests' own
    asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        asyncio.Handle._run = run_handle  # type: ignore[method-assign]
        gc.enable()


def test_a_stall_is_seen() -> None:
    async def work() -> None:
        with stalls() as found:
            asyncio.get_running_loop().call_soon(time.sleep, 2 * _MOST_STALL_S)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert max(found) > _MOST_STALL_S

    run(work())


def peak_kib(pid: int) -> int:
    """The most memory that a process has had; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def test_no_template_holds_up_what_runs_or_outlives_its_bounds() -> None:
    async def work() -> None:
        async with ready(workers=1, preparer=preparers.obeys, delay_ms=20) as pool, busy(pool):
            with stalls() as found:
                n_killed = 0
                for source in _BOMBS:
                    pid = pid_of(pool)
                    before_s = activity(pid).cpu_s
                    answer = await asyncio.wait_for(pool.prepare(chat(source)), DEADLINE_S)
                    if isinstance(answer, Failed):
                        assert answer.code in (
                            "template_too_expensive", "invalid_value", "internal_error",
                            "context_length_exceeded",
                        ), source[:80]  # fmt: skip
                    assert activity(pid).cpu_s - before_s < preparers.SECONDS + 1, source[:80]
                    assert peak_kib(pid) < _MOST_KIB, source[:80]
                    assert (await prepared(pool, text())).ids == IDS
                    n_killed += pid_of(pool) != pid
            assert n_killed > 0, "some take all the time there is"
            assert max(found) < _MOST_STALL_S
            assert pool.status().totals.deaths == {}, "no worker dies of a template"
            assert pool.status().running == 1, "and what runs goes on"

    run(work())
