"""Tests of who runs where not all can: few rows in a batch, few cells in the cache."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.messages import Finished
from tests.unit.worker.loops import Bench, generate, last, text_of
from worker.engines.base import CacheFullError, Logits, SlotTokens
from worker.engines.echo import EchoEngine

SLOTS, N_CTX = 4, 64


def bench_of_few(rows: int = 8, cells: int | None = None) -> Bench:
    """A loop whose engine takes so many rows, and whose slots share so many cells."""
    bench = Bench(n_ctx=N_CTX, chunk=rows, slots=SLOTS)
    engine = bench.engine
    engine.batch_size = rows
    forward = engine.forward

    def checked(batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        assert 1 <= sum(len(part.tokens) for part in batch) <= rows
        used = sum(map(len, engine._caches)) + sum(len(part.tokens) for part in batch)
        if cells is not None and used > cells:
            raise CacheFullError("full")
        return forward(batch, threads)

    def reuse_prefix(slot: int, tokens: Sequence[int], *, most: int | None = None) -> int:
        prompt = engine._prompts[slot]
        n_cached = EchoEngine.reuse_prefix(engine, slot, tokens, most=most)
        if not tokens:  # what is to be echoed is no part of the cache
            engine._prompts[slot] = prompt
        return n_cached

    engine.forward = checked  # type: ignore[method-assign]
    engine.reuse_prefix = reuse_prefix  # type: ignore[method-assign]
    return bench


def has_ended(bench: Bench, name: str) -> bool:
    return any(isinstance(event, Finished) for event in bench.of(name))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_all_go_on_where_a_batch_has_fewer_rows(rows: int) -> None:
    bench = bench_of_few(rows)
    texts = ["a" * 28, "b" * 28, "c" * 28, "ddd"]
    names = [bench.start(slot, text) for slot, text in enumerate(texts[:3])]

    def lengths() -> list[int]:
        return [len(text_of(bench.of(name))) for name in names]

    while not all(lengths()):
        bench.loop.step()
    before = lengths()
    for _ in range(9):
        bench.loop.step()
    gains = [now - then for now, then in zip(lengths(), before, strict=True) if now < 28]
    assert max(gains) - min(gains) <= 1, gains
    names.append(bench.start(3, texts[3]))
    while not lengths()[3]:
        bench.loop.step()
    assert min(lengths()[:3]) < 28, "its prompt has not waited for the ends of others"
    bench.run()
    assert [text_of(bench.of(name)) for name in names] == texts


def test_who_waits_for_cells_is_not_overtaken_for_ever() -> None:
    """The second does not fit beside the first; short ones come and go all the time."""
    bench = bench_of_few(cells=N_CTX)
    old, young = bench.start(0, "a" * 25), bench.start(1, "b" * 25)
    texts, number = {}, 0
    names: dict[int, str] = {}
    while not text_of(bench.of(young)):
        for slot in (2, 3):
            if slot not in names or has_ended(bench, names[slot]):
                number += 1
                text = f"{number}"
                names[slot] = bench.start(slot, text)
                texts[names[slot]] = text
        bench.loop.step()
        assert number < 400
    bench.run()
    assert text_of(bench.of(old)) == "a" * 25 and text_of(bench.of(young)) == "b" * 25
    for name, text in texts.items():
        assert text_of(bench.of(name)) == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=30), min_size=4, max_size=12))
def test_little_is_read_twice_for_want_of_cells(texts: list[str]) -> None:
    """Who is paused runs again when there is room, and not at each end of another."""
    bench, free, running = bench_of_few(cells=N_CTX), list(range(SLOTS)), dict[str, int]()
    left = [(f"{number}", text) for number, text in enumerate(texts)]
    while left or running:
        while left and free:
            name, text = left.pop(0)
            running[name] = free.pop(0)
            bench.inbox.put(generate(text, name, slot=running[name]))
        bench.loop.step()
        for name in [name for name in running if has_ended(bench, name)]:
            free.append(running.pop(name))
    for number, text in enumerate(texts):
        events = bench.of(f"{number}")
        assert last(events).finish_reason == "stop" and text_of(events) == text
    evaluated = sum(len(part.tokens) for batch in bench.engine.batches for part in batch)
    assert evaluated <= 2 * sum(2 * len(text) for text in texts), evaluated
