"""Tests of llama.cpp's engine on tiny models of several architectures: whole, and through the loop.

What runs together changes what a request gets by rounding alone: the order of cells in the cache,
in which attention adds up, depends on who came before.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.config import WorkerConfig
from shared.errors import EngineError
from shared.messages import Event, Finished, Generate, Prefilled
from shared.sampling import SamplingParams
from shared.saved_prefix import Region, Save, Saved, SavedPrefix
from tests.gguf_files import STRING, U32, GGUFDraft, tiny_llama
from tests.gguf_kinds import GENERATING, tiny, write_split
from tests.unit.worker.loops import Idle, Inbox, Outbox
from worker import engines
from worker.engines.base import CacheFullError, SlotTokens
from worker.engines.llamacpp import LlamaCppEngine
from worker.loop import Loop
from worker.prefix_memory import PrefixMemory

SLOTS, N_CTX = 4, 512
NOISE = 0.7
"""Logits, whose standard deviation is 1.6; of a wrong cell they differ by several."""
SYSTEM = list(range(10, 50))


def load(path: Path, slots: int = SLOTS, n_ctx: int = N_CTX) -> LlamaCppEngine:
    engine = engines.load(WorkerConfig("llamacpp", str(path), slots=slots, n_ctx=n_ctx))
    assert isinstance(engine, LlamaCppEngine)
    return engine


@pytest.fixture(scope="module", params=GENERATING)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamacpp")
    if request.param == "phi3":  # in three files
        return write_split(tiny("phi3"), folder, 3)[0]
    return tiny(request.param).write(folder / "model.gguf")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama().write(tmp_path_factory.mktemp("llamacpp") / "llama.gguf")


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[LlamaCppEngine]:
    yield load(path)


def clear(engine: LlamaCppEngine) -> None:
    for slot in range(engine.n_slots):
        engine.reuse_prefix(slot, ())


def greedy(engine: LlamaCppEngine, slot: int, prompt: list[int], n: int) -> list[int]:
    """Ids of a request that runs alone, with what its slot, or another, has of the prompt."""
    todo, found = prompt[engine.reuse_prefix(slot, prompt) :], list[int]()
    while len(found) < n:
        chunk, todo = todo[: engine.chunk_size(slot)], todo[engine.chunk_size(slot) :]
        (row,) = engine.forward([SlotTokens(slot, chunk, wants_logits=not todo)], 1)
        if row is not None:
            found.append(int(row.argmax()))
            todo = found[-1:]
    return found


def check(engine: LlamaCppEngine, prompt: list[int], ids: list[int]) -> None:
    """Each id is the likeliest, or nearly so, where the prompt and those before stand alone."""
    clear(engine)
    row = None
    for n, token in enumerate(ids):
        known = [*prompt, *ids[:n]]
        todo = known[engine.reuse_prefix(0, known) :]
        for start in range(0, len(todo), 63):
            (row,) = engine.forward([SlotTokens(0, todo[start : start + 63])], 1)
        assert row is not None and row[token] > row.max() - NOISE, (n, ids)


def test_a_prefix_is_as_good_as_a_fresh_cache(engine: LlamaCppEngine) -> None:
    """Continued, rewound near and far (a window has dropped the start), copied between slots."""
    prompts = [[*SYSTEM, 60, 61, 62], [*SYSTEM, 70, 71], [*SYSTEM[:5], 80], [*SYSTEM, 60, 61, 90]]
    clear(engine)
    source = random.Random(3)
    found = []
    for _ in range(24):
        prompt = source.choice(prompts)
        found.append((prompt, greedy(engine, source.randrange(SLOTS), prompt, 12)))
    for prompt, ids in found:
        check(engine, prompt, ids)
    clear(engine)
    whole = prompts[0] + greedy(engine, 0, prompts[0], 12)[:-1]
    assert engine.reuse_prefix(0, [*whole, 5]) == len(whole)
    assert engine.reuse_prefix(1, [*whole, 5]) == len(whole)


def test_a_prefix_is_copied_and_cut_where_the_model_allows_it(llama: Path) -> None:
    engine = load(llama)
    greedy(engine, 0, SYSTEM, 2)
    assert engine.reuse_prefix(1, [*SYSTEM[:20], 9, 9]) == 20
    assert engine.reuse_prefix(0, SYSTEM) == len(SYSTEM) - 1


def events_of(outbox: Outbox, request_id: str) -> list[Event]:
    return [each for batch in outbox.batches for each in batch if each.request_id == request_id]


def test_a_state_that_was_saved_is_the_slots_own_to_the_bit(path: Path) -> None:
    """Further than a window, continued and, where the model allows it, cut back."""
    here, there = load(path), load(path)
    prompt = [*SYSTEM, 60, 61]
    prompt += greedy(here, 0, prompt, 6)
    state = memoryview(bytearray(here.state_bytes(0)))
    assert here.save(0, state) and not here.save(0, state[:-8])
    n_saved = len(prompt) - 1  # the last token was not evaluated
    assert there.restore(0, prompt, state)
    assert there.reuse_prefix(0, [*prompt, 70]) == n_saved == here.reuse_prefix(0, [*prompt, 70])
    rows = [each.forward([SlotTokens(0, [prompt[-1], 70])], 1)[0] for each in (here, there)]
    assert rows[0] is not None and rows[1] is not None and np.array_equal(rows[0], rows[1])
    # What stood behind the tokens that are known is unknown.
    clear(there)
    assert there.restore(2, prompt[:30], state)
    can_be_cut = there.info.most_rewound is None
    assert there.reuse_prefix(2, prompt) == (30 if can_be_cut else 0)
    check(there, prompt, greedy(there, 3, prompt, 8))
    assert not there.restore(1, prompt, memoryview(bytearray(len(state))))
    assert there.reuse_prefix(1, [5, 6]) == 0


def test_no_state_is_kept_of_slots_with_cells_of_their_own(llama: Path) -> None:
    config = WorkerConfig("llamacpp", str(llama), slots=SLOTS, n_ctx=N_CTX, exact_rows=8)
    engine = engines.load(config)
    assert isinstance(engine, LlamaCppEngine)
    greedy(engine, 0, SYSTEM, 3)
    assert engine.state_bytes(0) == 0 < load(llama).state_bytes(0)


def memory_of(size: int) -> PrefixMemory:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, size)
    memory = PrefixMemory(descriptor, size)
    os.close(descriptor)
    return memory


def run_one(loop: Loop, inbox: Inbox, outbox: Outbox, request: Generate) -> list[Event]:
    inbox.put(request)
    with pytest.raises(Idle):
        loop.run()
    return events_of(outbox, request.request_id)


@pytest.mark.parametrize("n_ctx", [N_CTX, 176], ids=["room for all", "room for one"])
def test_a_conversation_goes_on_in_another_worker(path: Path, n_ctx: int) -> None:
    memory = memory_of(1 << 22)
    workers = []
    for _ in range(2):
        engine, inbox, outbox = load(path, n_ctx=n_ctx), Inbox(), Outbox()
        workers.append((Loop(engine, 1, inbox, outbox, memory=memory), inbox, outbox))
    source, region, ids = random.Random(2), Region(0, 0), (*SYSTEM,)
    greedily = SamplingParams(temperature=0)
    for turn in range(6):
        worker, slot = workers[turn % 2], source.randrange(SLOTS)
        saved = SavedPrefix(region, len(ids)) if turn else None
        prompt = ids + tuple(source.randrange(10, 200) for _ in range(3))
        request = Generate(f"{turn}", prompt, greedily, 8, slot=slot, saved=saved)
        prefilled, *_, last = run_one(*worker, request)
        assert isinstance(prefilled, Prefilled) and isinstance(last, Finished)
        # The last token of an answer that the limit has ended was not evaluated.
        assert prefilled.cached_tokens in ((len(ids) - 1, len(ids)) if turn else (0,))
        assert prefilled.restored_tokens in (prefilled.cached_tokens, 0)
        check(load(path), list(prompt), list(last.ids))
        ids = prompt + last.ids
        region = Region(region.offset + region.size, last.state_bytes)
        others = [Generate(f"{turn}-{n}", tuple(source.choices(range(10, 200), k=60)), greedily, 2,
                           slot=(slot + n) % SLOTS) for n in range(1, SLOTS)]  # fmt: skip
        worker[1].put(Save(slot, region))
        for other in others:
            run_one(*worker, other)
        assert Saved(region, True) in worker[2].sent
        worker[1].put(Save(slot, Region(0, region.size + 1)))
    run_one(*workers[1], replace(others[0], request_id="last"))
    assert Saved(Region(0, region.size + 1), False) in workers[1][2].sent


def test_a_context_of_few_tokens_is_kept_to(llama: Path) -> None:
    engine = load(llama, slots=8, n_ctx=2)
    assert engine.info.n_ctx == 2
    assert len(greedy(engine, 7, [5], 2)) == 2
    with pytest.raises(EngineError, match="do not fit the context"):
        engine.forward([SlotTokens(7, [5])], 1)


def test_bad_batches_change_nothing(llama: Path) -> None:
    engine = load(llama, n_ctx=256)
    expected = greedy(engine, 0, SYSTEM, 5)
    bad = [[], [-1], [engine.info.n_vocab], [5] * 64]
    for tokens in bad:
        with pytest.raises(EngineError):
            engine.forward([SlotTokens(1, tokens)], 1)
    for _ in range(3):
        engine.forward([SlotTokens(2, [7] * 63, wants_logits=False)], 1)
    with pytest.raises(CacheFullError):
        engine.forward([SlotTokens(3, [7] * 63, wants_logits=False)], 1)
    engine.reuse_prefix(2, ())
    assert greedy(engine, 0, SYSTEM, 5) == expected


def test_an_embedding_is_pooled_as_the_file_says(tmp_path: Path) -> None:
    engine = load(tiny("bert").write(tmp_path / "bert.gguf"))
    assert not engine.info.generates and engine.info.n_embd == 32
    texts = ("hello world", "the cat sat on a mat", "Hello  World")
    prompts = [engine.tokenize((text,)) for text in texts]
    assert prompts[0] == prompts[2] and prompts[0][0] == 2 and prompts[0][-1] == 3
    for slot in range(3):
        assert engine.reuse_prefix(slot, prompts[slot]) == 0
    engine.forward([SlotTokens(s, prompts[s], embeds=True) for s in range(3)], 1)
    first, second, third = (engine.embedding(slot) for slot in range(3))
    assert np.allclose(first, third, atol=1e-5) and not np.allclose(first, second, atol=1e-2)


def test_an_embedding_of_a_model_that_writes_is_its_last_hidden_state(llama: Path) -> None:
    engine = load(llama)
    engine.forward([SlotTokens(0, SYSTEM, embeds=True), SlotTokens(1, SYSTEM[:9])], 1)
    embedding = engine.embedding(0)
    engine.forward([SlotTokens(2, SYSTEM, embeds=True)], 1)
    assert np.allclose(embedding, engine.embedding(2), atol=1e-5)
    assert embedding.shape == (32,)


def _changed(**numbers: int) -> GGUFDraft:
    draft = tiny_llama()
    for key, number in numbers.items():
        draft.metadata[f"llama.{key.replace('__', '.')}"] = (U32, number)
    return draft


def _named(architecture: str) -> GGUFDraft:
    draft = tiny_llama()
    draft.metadata = {
        key.replace("llama.", f"{architecture}.", 1): value for key, value in draft.metadata.items()
    }
    draft.metadata["general.architecture"] = (STRING, architecture)
    return draft


def _without(tensor: str) -> GGUFDraft:
    draft = tiny_llama()
    del draft.tensors[tensor]
    return draft


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (_without("blk.1.ffn_up.weight"), "tensor 'blk.1.ffn_up.weight' not found"),
        (_named("nonesuch"), "unknown model architecture: 'nonesuch'"),
        (_changed(rope__dimension_count=4), "invalid n_rot: 4, expected 8"),
    ],
)
def test_the_reason_of_a_failed_load_is_the_librarys(
    draft: GGUFDraft, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=f"llama.cpp cannot load it: .*{reason}"):
        load(draft.write(tmp_path / "bad.gguf"))
