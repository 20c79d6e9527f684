"""Tests of the plan: model, workers, threads, memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import machine
from gateway.plan import Plan, fit, plan_for
from gateway.settings import Settings
from shared.errors import ModelFileError, UsageError
from shared.gguf import GGUFFile
from shared.gguf_reader import read_gguf
from tests.gguf_files import tiny_llama

MIB = 1 << 20
WORKER = 32 * MIB
"""What a worker takes without a context."""

SetMachine = Callable[[int, int | None], None]


@pytest.fixture
def file(tmp_path: Path) -> GGUFFile:
    """A model with a context of 512 tokens and 128 bytes of KV cache for each."""
    file = read_gguf(tiny_llama("bytes").write(tmp_path / "tiny.gguf"))
    assert file.kv_bytes_per_token == 128
    return file


@pytest.fixture(autouse=True)
def have(monkeypatch: pytest.MonkeyPatch) -> SetMachine:
    """Sets cores and free memory; at first there is plenty."""

    def set_machine(cores: int, memory: int | None) -> None:
        monkeypatch.setattr(machine, "usable_cores", lambda: cores)
        monkeypatch.setattr(machine, "available_memory", lambda: memory)

    set_machine(4, 1 << 40)
    return set_machine


def memory_for(file: GGUFFile, workers: int, n_ctx: int = 512) -> int:
    return file.n_bytes + workers * (WORKER + n_ctx * 128)


def test_as_many_workers_as_cores(file: GGUFFile) -> None:
    plan = fit(Settings(), "tiny", file)
    assert (plan.model_id, plan.workers, plan.worker.threads) == ("tiny", 4, 4)
    assert plan.worker.engine == "ctransformers"
    assert plan.worker.model_path == str(file.path)
    assert plan.family == "llama, F32"


def test_memory_limits_the_workers(file: GGUFFile, have: SetMachine) -> None:
    for workers in (1, 2, 3):
        have(4, memory_for(file, workers))
        assert fit(Settings(), "tiny", file).workers == workers
        have(4, memory_for(file, workers + 1) - 1)
        plan = fit(Settings(), "tiny", file)
        assert plan.workers == workers
        # Few workers do not mean few threads.
        assert plan.worker.threads == 4


def test_unknown_memory_limits_nothing(file: GGUFFile, have: SetMachine) -> None:
    have(3, None)
    assert fit(Settings(), "tiny", file).workers == 3
    assert fit(Settings(workers=256), "tiny", file).workers == 256


def test_workers_and_threads_as_they_were_asked_for(file: GGUFFile) -> None:
    plan = fit(Settings(workers=9, threads=2), "tiny", file)
    assert (plan.workers, plan.worker.threads) == (9, 2)


def test_more_workers_than_memory(file: GGUFFile, have: SetMachine) -> None:
    have(4, memory_for(file, 3))
    assert fit(Settings(workers=3), "tiny", file).workers == 3
    with pytest.raises(UsageError) as caught:
        fit(Settings(workers=5), "tiny", file)
    needed, free = memory_for(file, 5) // MIB, memory_for(file, 3) // MIB
    assert str(caught.value) == (
        f"5 workers need {needed} MiB of memory, and {free} MiB are free;"
        " lower WORKERS or CONTEXT_LENGTH"
    )


@pytest.mark.parametrize("memory", [0, 10 * MIB])
def test_no_room_for_even_one_worker(file: GGUFFile, have: SetMachine, memory: int) -> None:
    have(4, memory)
    with pytest.raises(UsageError, match=r"^1 workers need \d+ MiB of memory"):
        fit(Settings(), "tiny", file)


def test_a_shorter_context_makes_room(tmp_path: Path, have: SetMachine) -> None:
    file = read_gguf(tiny_llama("bytes", n_ctx=1 << 20).write(tmp_path / "long.gguf"))
    have(4, memory_for(file, 2, n_ctx=1000))
    assert fit(Settings(context_length=1000), "long", file).workers == 2
    with pytest.raises(UsageError, match="lower WORKERS or CONTEXT_LENGTH"):
        fit(Settings(context_length=1 << 20), "long", file)


def test_context_length(file: GGUFFile, tmp_path: Path) -> None:
    assert fit(Settings(), "tiny", file).worker.n_ctx == 512
    assert fit(Settings(context_length=100), "tiny", file).worker.n_ctx == 100
    assert fit(Settings(context_length=512), "tiny", file).worker.n_ctx == 512
    with pytest.raises(UsageError, match=r"CONTEXT_LENGTH=513 .* it must be at most 512"):
        fit(Settings(context_length=513), "tiny", file)
    long = read_gguf(tiny_llama("bytes", n_ctx=100_000).write(tmp_path / "long.gguf"))
    assert fit(Settings(), "long", long).worker.n_ctx == 4096
    assert fit(Settings(context_length=9000), "long", long).worker.n_ctx == 9000


def test_memory_in_a_line(file: GGUFFile) -> None:
    plan = fit(Settings(workers=2), "tiny", file)
    assert plan.weight_bytes == file.n_bytes
    assert plan.worker_bytes == WORKER + 512 * 128
    line = Plan("m", plan.worker, 3, "", 100 * MIB, 40 * MIB).memory
    assert line == "220 MiB at most: weights 100 MiB, shared, + 3 x 40 MiB"


def test_settings_reach_the_worker(file: GGUFFile) -> None:
    worker = fit(Settings(log_level="debug", echo_delay_ms=1.5), "tiny", file).worker
    assert (worker.log_level, worker.echo_delay_ms) == ("DEBUG", 1.5)


def test_echo_needs_no_model() -> None:
    plan = plan_for(Settings(model_type="echo"))
    assert (plan.model_id, plan.worker.engine, plan.worker.model_path) == ("echo", "echo", "")
    assert (plan.workers, plan.worker.n_ctx, plan.weight_bytes) == (4, None, 0)
    plan = plan_for(Settings(model_type="echo", model_name="gpt-4", context_length=99))
    assert (plan.model_id, plan.worker.n_ctx) == ("gpt-4", 99)


def test_model_file_is_found_and_read(file: GGUFFile) -> None:
    for model_type in (None, "llama", "gguf"):
        plan = plan_for(Settings(model_name=str(file.path), model_type=model_type))
        assert (plan.model_id, plan.worker.model_path) == ("tiny", str(file.path))


def test_a_bad_model_file_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="cut short"):
        plan_for(Settings(model_name=str(bad)))
