"""Crowds of requests to llama.cpp's engine: what runs together gets what it would get alone.

Evaluations differ by rounding where attention adds up over the cells of a cache in their order,
which depends on who came before. A model without attention has no such difference.
"""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from shared.config import WorkerConfig
from shared.grammar import Grammar, GrammarKind
from shared.messages import Cancel, Delta, Event, Failed, Finished, Generate
from shared.sampling import SamplingParams
from tests.gguf_files import tiny_llama
from tests.gguf_kinds import GENERATING, tiny
from tests.unit.worker.loops import Idle, Inbox, Outbox, end_of, text_of
from worker.engines.base import Logits, SlotTokens
from worker.engines.llamacpp import LlamaCppEngine
from worker.loop import Loop

SLOTS = 4
ROUNDING = {"llama": 0.1, "mamba": 0.0, "qwen3": 0.5, "gemma3": 0.5, "phi3": 0.5, "qwen3moe": 2.0}
"""The most by which two logits of a row may come to differ; their standard deviation is 1.6.

Twice what was measured. Of a wrong cell they differ by several.
"""
CASES = [
    ("llama", 300, 7000), ("llama", 176, 2000), ("mamba", 300, 400),
    *((kind, 176, 150) for kind in GENERATING if kind != "mamba"),
]  # fmt: skip
N_REQUESTS, N_ROWS = 32, 200
REGEX = "[a-f]{3,9}x?"


class Watched(LlamaCppEngine):
    """Knows the tokens of each slot, and keeps rows with the tokens that they come of."""

    def __init__(
        self, path: Path, slots: int, n_ctx: int, kept: float, exact_rows: int = 0
    ) -> None:
        config = WorkerConfig("llamacpp", str(path), slots=slots, n_ctx=n_ctx)
        super().__init__(replace(config, exact_rows=exact_rows))
        self._tokens: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self._kept, self._source = kept, random.Random(1)
        self.rows: list[tuple[list[int], Logits]] = []

    def reuse_prefix(self, slot: int, tokens: Sequence[int], *, most: int | None = None) -> int:
        n = super().reuse_prefix(slot, tokens, most=most)
        self._tokens[slot] = list(tokens[:n])
        return n

    def forward(self, batch: Sequence[SlotTokens], threads: int) -> list[Logits | None]:
        rows = super().forward(batch, threads)
        for part, row in zip(batch, rows, strict=True):
            self._tokens[part.slot] += part.tokens
            if row is not None and self._source.random() < self._kept:
                self.rows.append((self._tokens[part.slot].copy(), row.copy()))
        return rows


@dataclass
class Crowd:
    """Requests that arrive at a loop at any time, and some of them are cancelled."""

    engine: Watched
    requests: Sequence[Generate]
    source: random.Random
    events: dict[str, list[Event]] = field(default_factory=dict)
    ended: list[tuple[Generate, list[Event]]] = field(default_factory=list)
    arrived: dict[str, tuple[int, Generate]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inbox, self.outbox = Inbox(), Outbox()
        self.loop = Loop(self.engine, 1, self.inbox, self.outbox)
        self.free = list(range(self.engine.n_slots))
        # One alone takes as many steps as the context has tokens, if nothing else ends it.
        self.longest_wait = 2 * self.engine.info.n_ctx

    def run(self, n_steps: int) -> None:
        for step in range(n_steps):
            while self.free and self.source.random() < 0.35:
                self.arrive(step)
            if self.arrived and self.source.random() < 0.02:
                self.inbox.put(Cancel(self.source.choice(list(self.arrived))))
            self.step(step)
        for step in range(n_steps, n_steps + self.longest_wait):
            self.step(step)
        assert not self.arrived

    def arrive(self, step: int) -> None:
        slot = self.free.pop(self.source.randrange(len(self.free)))
        chosen = self.source.choice(self.requests)
        request = replace(chosen, request_id=f"{chosen.request_id} at {step}, {slot}", slot=slot)
        self.arrived[request.request_id] = step, chosen
        self.events[request.request_id] = []
        self.inbox.put(request)

    def step(self, number: int) -> None:
        with suppress(Idle):
            self.loop.step()
        for event in (event for batch in self.outbox.batches for event in batch):
            events = self.events[event.request_id]  # of none that has ended
            events.append(event)
            if not isinstance(event, Finished | Failed):
                continue
            del self.events[event.request_id]
            arrived, request = self.arrived.pop(event.request_id)
            assert number - arrived <= self.longest_wait, "it starves"
            self.free.append(int(event.request_id.rpartition(" ")[2]))
            self.ended.append((request, events))
        self.outbox.batches.clear()


def requests(source: random.Random, n_vocab: int) -> Iterator[Generate]:
    """Every kind of them: of shared beginnings, sampled and greedy, and some that must fail."""
    systems = [[source.randrange(3, 250) for _ in range(n)] for n in (40, 70, 100)]
    choice = '["hello", "the cat", "hello world"]'
    grammars = [Grammar(GrammarKind.REGEX.value, REGEX), Grammar(GrammarKind.CHOICE.value, choice)]
    for number in range(N_REQUESTS):
        system = source.choice(systems)[: source.choice((0, 10, 40, 100))]
        prompt = [*system, *(source.randrange(3, 250) for _ in range(source.randint(1, 60)))]
        greedy = SamplingParams(temperature=0)
        yield Generate(
            str(number),
            tuple(prompt) if number % 8 != 3 else (*prompt, n_vocab),
            greedy if number % 2 else SamplingParams(seed=number),
            max_tokens=source.choice((0, 1, None)) if number % 10 == 3 else source.randint(1, 40),
            stop=("e",) if source.random() < 0.2 else (),
            grammar=source.choice(grammars) if number % 5 == 0 else None,
            logprobs=2 if number % 7 == 0 else None,
            ignores_eog=number % 3 == 0,
            embeds=number == 12,
        )


def alone(engine: Watched, request: Generate, rounding: float) -> tuple[list[Event], int]:
    """The events of a request, and how many of its tokens rounding cannot change."""
    engine.reuse_prefix(0, ())
    engine.rows.clear()
    inbox, outbox = Inbox(), Outbox()
    inbox.put(request)
    with suppress(Idle):
        Loop(engine, 1, inbox, outbox).run()
    events = [event for batch in outbox.batches for event in batch]
    bests = [np.sort(row)[-2:] for _, row in engine.rows]
    clear = takewhile(lambda best: best[1] - best[0] > rounding, bests)
    is_greedy = request.sampling.temperature == 0 and request.grammar is None
    return events, sum(1 for _ in clear) if is_greedy or not rounding else 0


def row_alone(engine: Watched, tokens: list[int]) -> Logits:
    engine.reuse_prefix(0, ())
    row: Logits | None = None
    for begin in range(0, len(tokens), 63):
        (row,) = engine.forward([SlotTokens(0, tokens[begin : begin + 63])], 1)
    assert row is not None
    return row


@pytest.mark.parametrize(("kind", "n_ctx", "n_steps"), CASES)
def test_what_runs_together_gets_what_it_gets_alone(
    tmp_path: Path, kind: str, n_ctx: int, n_steps: int
) -> None:
    """With 176 cells there is room for one of the longest requests at a time."""
    draft = tiny_llama(n_layer=1) if kind == "llama" else tiny(kind)
    path, source = draft.write(tmp_path / "model.gguf"), random.Random(7)
    single = Watched(path, 1, n_ctx, kept=1.0)
    asked = list(requests(source, single.info.n_vocab))
    expected = {request.request_id: alone(single, request, ROUNDING[kind]) for request in asked}

    crowd = Crowd(Watched(path, SLOTS, n_ctx, kept=N_ROWS / SLOTS / n_steps), asked, source)
    crowd.run(n_steps)
    assert len(crowd.ended) > n_steps // 10
    differences = [
        float(np.abs(row - row_alone(single, tokens)).max()) for tokens, row in crowd.engine.rows
    ]
    # Of a mixture, rounding makes it choose another expert now and then.
    assert np.quantile(differences, 0.95 if kind == "qwen3moe" else 1.0) <= ROUNDING[kind]
    n_same = 0
    for request, events in crowd.ended:
        check(request, events)
        reference, n_clear = expected[request.request_id]
        n_same += compared(events, reference, n_clear)
    assert n_same > n_steps // 20 or ROUNDING[kind] > 0.1


def check(request: Generate, events: list[Event]) -> None:
    """What holds of any request, whatever it was drawn."""
    end, text = end_of(events), text_of(events)
    if isinstance(end, Failed):
        assert "outside the vocabulary" in end.message
        return
    if end.finish_reason != "cancelled" and request.grammar is not None and not request.stop:
        whole = request.grammar.kind != GrammarKind.REGEX.value or re.fullmatch(REGEX, text)
        assert whole or end.finish_reason == "length", text
    assert (end.finish_reason == "length") <= (request.max_tokens in (None, len(end.ids)))
    assert bool(end.embedding) == (request.embeds and end.finish_reason != "cancelled")
    told = [each for event in events if isinstance(event, Delta) for each in event.logprobs or ()]
    n_told = len(end.ids) if request.logprobs is not None else 0
    assert len(told) <= n_told if request.stop else len(told) == n_told


def compared(events: list[Event], reference: list[Event], n_clear: int) -> int:
    """How many tokens were the same as alone, up to the first one that rounding could change."""
    end, wanted = end_of(events), end_of(reference)
    if isinstance(end, Failed) or isinstance(wanted, Failed):
        assert isinstance(end, Failed) or end.finish_reason == "cancelled"
        return 0
    n_compared = min(n_clear, len(end.ids), len(wanted.ids))
    assert end.ids[:n_compared] == wanted.ids[:n_compared]
    if n_clear < len(wanted.ids):
        return n_compared
    if end.finish_reason == "cancelled":
        assert text_of(reference).startswith(text_of(events))
    else:
        assert (text_of(events), end.ids) == (text_of(reference), wanted.ids)
        assert end.finish_reason == wanted.finish_reason
    return n_compared
