"""Tests of the plan: model, workers, threads, memory."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import calibration, machine
from gateway import plan as gateway_plan
from gateway.hub import ModelSource
from gateway.plan import Plan, fit, plan_for
from gateway.settings import Settings
from shared.errors import UsageError
from shared.model.description import MemoryNeeds
from shared.model.inspect import inspect
from shared.model.library import Cpu
from tests.gguf_files import tiny_llama
from tests.gguf_kinds import tiny

MIB = 1 << 20
WORKER = 16 * MIB
"""What a worker takes besides the engine."""
NEEDS = MemoryNeeds(weights=50 * MIB, kv_per_token=128, scratch=600_000, scratch_per_token=100)
"""What the engine takes for a context of 512 tokens."""

SetMachine = Callable[[int, int | None], None]


def model(path: Path, n_ctx: int = 512, **changes: Any) -> ModelSource:
    file = inspect(tiny_llama("bytes", n_ctx=n_ctx).write(path))
    return ModelSource(replace(file, memory=NEEDS, **changes), path.stem, path.name)


@pytest.fixture
def file(tmp_path: Path) -> ModelSource:
    """A model with a context of 512 tokens."""
    return model(tmp_path / "tiny.gguf")


@pytest.fixture(autouse=True)
def have(monkeypatch: pytest.MonkeyPatch) -> SetMachine:
    """Sets cores and free memory; at first there is plenty."""

    def set_machine(cores: int, memory: int | None) -> None:
        monkeypatch.setattr(machine, "usable_cores", lambda: cores)
        monkeypatch.setattr(machine, "available_memory", lambda: memory)

    set_machine(4, 1 << 40)
    return set_machine


def memory_for(workers: int, n_ctx: int = 512, most: int = 512) -> int:
    scratch = NEEDS.scratch - (most - n_ctx) * NEEDS.scratch_per_token
    return NEEDS.weights + workers * (WORKER + scratch + n_ctx * NEEDS.kv_per_token)


def test_the_worker_gets_what_it_needs(file: ModelSource) -> None:
    plan = fit(Settings(log_level="debug"), file)
    assert (plan.worker.model_id, plan.workers, plan.worker.threads) == ("tiny", 4, 4)
    assert plan.worker.engine == "ctransformers"
    assert plan.worker.model_path == str(file.file.path)
    assert (plan.family, plan.worker.log_level) == ("llama, F32", "DEBUG")
    echo = plan_for(Settings(model_type="echo", log_level="debug", echo_delay_ms=1.5)).worker
    assert (echo.log_level, echo.echo_delay_ms) == ("DEBUG", 1.5)


WARM = {"warm_prompt": "You are kind."}


@pytest.mark.parametrize(
    ("settings", "cores", "places", "workers", "parked"),
    [
        ({}, 4, None, 4, 16),
        ({}, 4, 1, 1, 0),
        ({}, 4, 3, 3, 0),
        ({}, 2, 2, 2, 0),
        ({}, 2, 3, 2, 1),
        ({}, 2, 20, 2, 16),
        ({"workers": 1024}, 4, None, 1024, 16),
        ({"workers": 9, "threads": 2}, 4, 9, 9, 0),
        ({"parked": 0}, 4, 100, 4, 0),
        ({"parked": 100}, 4, None, 4, 100),
        ({"parked": 3}, 2, 5, 2, 3),
        # What has evaluated the warm prompt has a cache of its own.
        (WARM, 2, 2, 1, 0),
        (WARM, 2, 3, 2, 0),
        (WARM, 2, 5, 2, 2),
    ],
)
def test_as_many_processes_as_cores_and_memory_allow(
    file: ModelSource, have: SetMachine, settings: dict[str, Any], cores: int, places: int | None,
    workers: int, parked: int,
) -> None:  # fmt: skip
    # One byte less than for one more process.
    have(cores, None if places is None else memory_for(places + 1) - 1)
    plan = fit(Settings(**settings), file)
    assert (plan.workers, plan.parked) == (workers, parked)
    # Few workers do not mean few threads.
    assert plan.worker.threads == settings.get("threads", cores)
    assert plan.caches == workers + parked + len(settings.keys() & WARM)
    assert places is None or plan.most_bytes <= memory_for(places)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 5}, "5 workers with"),
        ({"workers": 2, "parked": 4}, "2 workers and 4 parked ones with"),
        ({"workers": 3, **WARM}, "3 workers, and WARM_PROMPT, with"),
    ],
)
def test_more_than_the_memory_holds(
    file: ModelSource, have: SetMachine, settings: dict[str, Any], said: str
) -> None:
    have(4, memory_for(3))
    with pytest.raises(UsageError) as caught:
        fit(Settings(**settings), file)
    processes = sum(value if isinstance(value, int) else 1 for value in settings.values())
    assert str(caught.value) == (
        f"{said} a context of 512 tokens need {memory_for(processes) // MIB} MiB of memory, and"
        f" {memory_for(3) // MIB} MiB are free; lower WORKERS"
        f"{', PARKED' if 'parked' in settings else ''} or CONTEXT_LENGTH"
    )


@pytest.mark.parametrize("memory", [0, 10 * MIB])
def test_no_room_for_even_one_worker(file: ModelSource, have: SetMachine, memory: int) -> None:
    have(4, memory)
    with pytest.raises(UsageError, match=r"^1 workers with a context of 512 tokens need \d+ MiB"):
        fit(Settings(), file)


def test_a_context_that_fits(tmp_path: Path, have: SetMachine) -> None:
    file = model(tmp_path / "long.gguf", n_ctx=5000)
    have(4, memory_for(2, n_ctx=1000, most=5000))
    assert fit(Settings(context_length=1000), file).workers == 2
    with pytest.raises(UsageError, match="lower WORKERS or CONTEXT_LENGTH"):
        fit(Settings(context_length=5000, workers=2), file)
    # The default is halved until one worker fits.
    have(4, memory_for(1, n_ctx=1024, most=5000))
    plan = fit(Settings(), file)
    assert (plan.worker.n_ctx, plan.workers) == (1024, 1)
    have(4, memory_for(1, n_ctx=512, most=5000) - 1)
    with pytest.raises(UsageError, match="with a context of 512 tokens"):
        fit(Settings(), file)


def test_context_length(file: ModelSource, have: SetMachine, tmp_path: Path) -> None:
    current = model(tmp_path / "current.gguf", n_ctx=20_000, engine="llamacpp")
    long = model(tmp_path / "long.gguf", n_ctx=100_000)
    # Buffers of a fixed size may hold less than the model was trained for.
    cut = model(tmp_path / "cut.gguf", n_ctx=5000, n_ctx_most=3000)
    for asked, source, n_ctx, why in (
        (None, file, 512, "as trained"), (100, file, 100, "CONTEXT_LENGTH; trained for 512"),
        (None, long, 4096, "unless CONTEXT_LENGTH asks for more; trained for 100,000"),
        (None, current, 8192, "unless CONTEXT_LENGTH asks for more; trained for 20,000"),
        (9000, long, 9000, "CONTEXT_LENGTH; trained for 100,000"),
        (None, cut, 3000, "the most that the engine's buffers hold; trained for 5,000"),
    ):  # fmt: skip
        plan = fit(Settings(context_length=asked, workers=1), source)
        assert (plan.worker.n_ctx, plan.context) == (n_ctx, why)
    have(2, memory_for(1, n_ctx=1024, most=100_000))
    plan = fit(Settings(workers=1), long)
    assert (plan.worker.n_ctx, plan.context) == (
        1024,
        "what memory has room for; trained for 100,000",
    )
    with pytest.raises(UsageError, match=r"CONTEXT_LENGTH=513 .* it must be at most 512"):
        fit(Settings(context_length=513), file)
    with pytest.raises(UsageError, match=r"the engine can take .*trained for 5000.* most 3000"):
        fit(Settings(context_length=3001), cut)


def test_beside_another_model_only_parked_workers_are_spared(
    tmp_path: Path, file: ModelSource, have: SetMachine
) -> None:
    have(2, memory_for(3))
    for asked, parked in ((100, 1), (1, 1), (0, 0), (None, 1)):
        plan = fit(Settings(workers=2, parked=asked), file, is_beside=True)
        assert (plan.workers, plan.parked) == (2, parked), asked
    have(2, memory_for(1))
    with pytest.raises(UsageError, match=r"2 workers .* beside the model that is served; lower"):
        fit(Settings(workers=2), file, is_beside=True)
    # Nor is its context cut.
    long = model(tmp_path / "long.gguf", n_ctx=5000)
    have(2, memory_for(1, n_ctx=1024, most=5000))
    with pytest.raises(UsageError, match="1 workers with a context of 4096 tokens"):
        fit(Settings(workers=1), long, is_beside=True)
    settings = Settings(model_type="echo")
    before = plan_for(replace(settings, workers=3))
    assert plan_for(settings, beside=before).workers == 3
    assert plan_for(replace(settings, workers=2), beside=before).workers == 2


def test_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 4)
    assert plan_for(Settings(model_type="echo", threads=4)).worker.threads == 4
    with pytest.raises(UsageError, match=r"^THREADS=5 is more than the 4 CPUs"):
        plan_for(Settings(model_type="echo", threads=5))


def test_memory_in_a_line(file: ModelSource) -> None:
    plan = fit(Settings(workers=2), file)
    assert plan.weight_bytes == NEEDS.weights
    assert plan.worker_bytes == WORKER + NEEDS.scratch + 512 * NEEDS.kv_per_token
    line = replace(plan, workers=3, parked=0, weight_bytes=100 * MIB, worker_bytes=40 * MIB).memory
    assert line == "220 MiB at most: weights 100 MiB, shared, + 3 x 40 MiB"


def test_what_a_worker_takes_is_held_against_its_bound(file: ModelSource) -> None:
    fit(Settings(max_worker_memory=17 * MIB), file)
    said = r"^MAX_WORKER_MEMORY=15M is less than the 1\d MiB"
    with pytest.raises(UsageError, match=said):
        fit(Settings(max_worker_memory=15 * MIB), file)
    with pytest.raises(UsageError, match=said):
        plan_for(Settings(max_worker_memory=15 * MIB, model_type="echo"))


def test_tokenizer(file: ModelSource, tmp_path: Path) -> None:
    worker = fit(Settings(), file).worker
    assert worker.tokenizer_path == ""
    beside = tmp_path / "tokenizer.json"
    worker = fit(Settings(), replace(file, tokenizer=beside)).worker
    assert (worker.tokenizer_path, worker.tokenizer_is_optional) == (str(beside), True)
    with pytest.raises(UsageError, match=r"^TOKENIZER=.*own\.json: no such file"):
        fit(Settings(tokenizer=str(tmp_path / "own.json")), file)
    (tmp_path / "own.json").touch()
    worker = fit(Settings(tokenizer=str(tmp_path / "own.json")), file).worker
    assert (worker.tokenizer_path, worker.tokenizer_is_optional) == (
        str(tmp_path / "own.json"),
        False,
    )


def test_without_llamacpp_the_other_engine_serves_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draft = tiny_llama("spm")
    path = str(draft.write(tmp_path / "x.gguf"))
    assert plan_for(Settings(model_name=path)).worker.engine == "llamacpp"
    assert not caplog.records
    old = Cpu("x86_64", "Old CPU", (), ("avx", "f16c"))
    monkeypatch.setattr(Cpu, "here", lambda: old)
    plan = plan_for(Settings(model_name=path))
    assert (plan.worker.engine, "avx" in plan.engine) == ("ctransformers", True)
    said = "llama.cpp's library needs a CPU with avx2, bmi2, fma, which Old CPU has not"
    (record,) = caplog.records
    assert record.getMessage() == f"{said}; ctransformers serves the model instead"
    with pytest.raises(UsageError, match=f"^{said}$"):
        plan_for(Settings(model_name=path, engine="llamacpp"))
    other = str(tiny("qwen3").write(tmp_path / "qwen3.gguf"))
    with pytest.raises(UsageError, match=f"^{said}$"):
        plan_for(Settings(model_name=other))


def test_the_model_file_is_found_and_echo_needs_none(file: ModelSource) -> None:
    settings = Settings(model_name=str(file.file.path), warm_prompt="You are kind.")
    plan = plan_for(settings)
    assert (plan.worker.model_id, plan.worker.model_path) == ("tiny", str(file.file.path))
    assert plan.warm_prompt == "You are kind."
    plan = plan_for(Settings(model_type="echo"))
    worker = plan.worker
    assert (worker.model_id, worker.engine, worker.model_path) == ("echo", "echo", "")
    assert (plan.workers, plan.worker.n_ctx, plan.weight_bytes) == (4, None, 0)
    plan = plan_for(Settings(model_type="echo", model_name="gpt-4", context_length=99))
    assert (plan.worker.model_id, plan.worker.n_ctx) == ("gpt-4", 99)


def test_the_prefix_cache_is_a_tenth_of_the_memory_or_what_is_left_of_it(
    tmp_path: Path, have: SetMachine
) -> None:
    file = model(tmp_path / "tiny.gguf", engine="llamacpp")
    have(4, 2 << 30)
    plan = fit(Settings(), file)
    assert plan.worker.prefix_cache == (2 << 30) // 10
    assert plan.memory.endswith(f" + prefix cache {plan.worker.prefix_cache / MIB:.0f} MiB")
    without = fit(Settings(prefix_cache=0), file)
    assert plan.most_bytes - without.most_bytes == plan.worker.prefix_cache
    assert without.worker.prefix_cache == 0 and "prefix" not in without.memory
    have(4, without.most_bytes + MIB)
    assert fit(Settings(workers=4), file).worker.prefix_cache == MIB
    with pytest.raises(UsageError, match="lower WORKERS, PREFIX_CACHE or CONTEXT_LENGTH"):
        fit(Settings(workers=4, prefix_cache=2 * MIB), file)
    # Fewer workers, where the machine is to say how many.
    assert fit(Settings(prefix_cache=2 * MIB), file).workers < 4
    assert fit(Settings(prefix_cache=MIB), model(tmp_path / "b.gguf")).worker.prefix_cache == 0


def test_what_is_measured_settles_what_settings_leave_open(
    have: SetMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One worker of 16 slots where that is fastest; EXACT has cells, rows and a thread for each."""
    have(2, 1 << 40)
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    found = {"rates": {"4": {"1": 9.0, "2": 5.0}}, "exact_rows": 3, "exact_threads": 1}
    monkeypatch.setattr(calibration, "_CODE", f"print({json.dumps(found)!r})")
    monkeypatch.setattr(gateway_plan, "_LEAST_WEIGHTS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def planned(**settings: Any) -> Plan:
        return plan_for(Settings(model_name=str(path), **settings))

    plan = planned()
    assert (plan.workers, plan.worker.slots, plan.worker.threads) == (1, 16, 2)
    assert plan.layout == "1, with 2 threads among them, as measured; 0 more parked"
    for settings in ({"workers": 2}, {"threads": 2}):
        plan = planned(**settings)
        assert (plan.workers, plan.worker.slots, plan.is_measured) == (2, 8, False)
    exact = planned(exact=True)
    assert (exact.worker.exact_rows, exact.worker.threads, exact.workers) == (3, 1, 2)
    assert exact.is_exact and not plan.is_exact
    assert exact.worker.prefix_cache == 0 < plan.worker.prefix_cache
    with pytest.raises(UsageError, match="PREFIX_CACHE has no use with EXACT=1"):
        planned(exact=True, prefix_cache=MIB)
    needs = inspect(path, None, "llamacpp").memory
    assert exact.worker_bytes - plan.worker_bytes == 7 * 512 * needs.kv_per_token
