"""Tests of what is measured of a model: within which bounds its logits are exact; they are."""

import math
import random
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from shared.messages import Event, Finished, Generate
from tests.gguf_files import GGUFDraft, Tensor, tiny_llama
from tests.gguf_kinds import tiny
from tests.unit.worker.loops import Idle, Inbox, Outbox
from tests.unit.worker.test_llamacpp_crowds import SLOTS, Crowd, Watched, requests
from worker.calibration import measure_exactness
from worker.loop import Loop

ROWS, N_CTX, N_STEPS = 63, 512, 150
_Q4_K = 12
_ROWS_OF = {"repacked": 3, "llama of floats": 1}


def load(path: Path, rows: int, slots: int = SLOTS) -> Watched:
    return Watched(path, slots, N_CTX, kept=0.0, exact_rows=rows)


def repacked() -> GGUFDraft:
    """A model of Q4_K, of which llama.cpp multiplies four rows at once by another kernel."""
    draft, source = tiny_llama(n_embd=256, n_ff=256), random.Random(3)
    for name, tensor in draft.tensors.items():
        if len(tensor.shape) > 1:
            # Blocks of 256: scales of 16 bits, then of 6 bits, then 4 bits for each.
            head = struct.pack("<2e", 0.002, 0.015)
            blocks = (head + source.randbytes(140) for _ in range(math.prod(tensor.shape) // 256))
            draft.tensors[name] = Tensor(tensor.shape, b"".join(blocks), _Q4_K)
    return draft


@pytest.fixture(scope="module", params=["gemma3", "qwen3moe", "mamba", *_ROWS_OF])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    drafts = {"repacked": repacked, "llama of floats": tiny_llama}
    draft = drafts[request.param]() if request.param in drafts else tiny(request.param)
    return draft.write(tmp_path_factory.mktemp("exact") / f"{request.param}.gguf")


def alone(path: Path, rows: int, request: Generate) -> Event:
    """The end of a request for which there is nothing else."""
    inbox, outbox = Inbox(), Outbox()
    loop = Loop(load(path, rows), 1, inbox, outbox)
    inbox.put(request)
    with suppress(Idle):
        while True:
            loop.step()
    return outbox.batches[-1][-1]


def test_within_its_bounds_a_text_is_that_of_the_request_alone(path: Path) -> None:
    """Arrivals, stops, cancels, prefixes that slots have of each other, caches that were used."""
    rows = measure_exactness(load(path, ROWS, slots=17), cores=2)["exact_rows"]
    assert rows == _ROWS_OF.get(path.stem, ROWS)
    engine, source = load(path, rows), random.Random(7)
    wanted = list(requests(source, engine.info.n_vocab))
    long = [source.randrange(3, 250) for _ in range(300)]
    wanted += [replace(wanted[n], ids=(*long, n), request_id=f"long {n}") for n in (1, 2, 4)]
    crowd = Crowd(engine, wanted, source)
    crowd.run(N_STEPS)
    expected: dict[str, Event] = {}
    n_whole = 0
    for request, events in crowd.ended:
        last, name = events[-1], request.request_id
        undisturbed = expected.get(name) or alone(path, rows, request)
        expected[name] = undisturbed
        if isinstance(last, Finished) and last.finish_reason == "cancelled":
            continue
        if isinstance(last, Finished) and isinstance(undisturbed, Finished):
            n_whole += 1
            assert (last.ids, last.finish_reason) == (undisturbed.ids, undisturbed.finish_reason)
            assert last.embedding == undisturbed.embedding
        else:
            assert type(last) is type(undisturbed)
    assert n_whole > N_STEPS // 20
