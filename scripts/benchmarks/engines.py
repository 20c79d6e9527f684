"""The engine itself: a native build against the wheel's, large models, and tokenizers."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from scripts.benchmarks.processes import pss_mib
from scripts.benchmarks.setup import BareEngine, Setup, Target, speed_of, ttft_of
from scripts.figures import Results
from scripts.processes import mib
from scripts.prompts import unlike_any, words
from scripts.server import ROOT

FAMILIES = ("falcon", "starcoder", "mpt")
_WORKERS = (1, 2, 4)
_CHAT_TOKENS, _ANSWER_TOKENS, _LONG_PROMPT_TOKENS = 100, 64, 512
_N_BYTES = 100_000
_PATTERNS = {"letters": "a", "spaces": " ", "digits": "7", "CJK": "語", "emoji": "🙂"}


def measure_native(setup: Setup, results: Results) -> None:
    """Add the ratios of CPU time by turns, if there is a native build."""
    from gateway.demo_model import default_cache_dir
    from shared.model.library import Cpu, choose, package_library

    package, native = package_library(Cpu.here()), choose(None, default_cache_dir())
    if native.path == package.path:
        results.notes.append("native: there is none; run `ggml-fastapi build-engine`")
        return
    prompt, n = words(setup.choose(500, 100)), setup.choose(48, 8)
    with BareEngine(setup.model, package.path) as a, BareEngine(setup.model, native.path) as b:
        for threads in (1, 2):
            rounds = [
                [engine.run(threads, prompt, n) for engine in (a, b)]
                for _ in range(setup.rounds + 1)
            ][1:]
            name = f"native build ÷ wheel, CPU time, {threads} threads"
            prefill = [theirs["first_cpu_s"] / ours["first_cpu_s"] for theirs, ours in rounds]
            what = f"{name}: prefill, {rounds[0][0]['prompt_tokens']} tokens"
            results.add("native", what, statistics.median(prefill), goal="≥ 1.10")
            decode = [ours["cpu_speed"] / theirs["cpu_speed"] for theirs, ours in rounds]
            results.add("native", f"{name}: decode", statistics.median(decode), goal="≥ 1.05")


def measure_families(setup: Setup, results: Results) -> None:
    """Serve files of random weights, and add what they take in time and memory.

    About a billion parameters each; the files are deleted at the end.
    """
    size = "100m" if setup.quick else "1b"
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            path = Path(folder, f"{family}.bin")
            maker = [sys.executable, "scripts/models/synthetic.py", family, str(path)]
            options = ["--parameters", size, "--type", "q4_0"]
            subprocess.run([*maker, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            _measure_family(replace(setup, model=str(path)), results, family)
            path.unlink()


def _measure_family(setup: Setup, results: Results, family: str) -> None:
    weights_mib = Path(setup.model).stat().st_size / (1 << 20)
    for workers in _WORKERS[: setup.choose(len(_WORKERS), 1)]:
        started_s = time.monotonic()
        with setup.serve(WORKERS=str(workers), PARKED="0") as server:
            add = partial(results.add, "families")
            of = f"{family}, {weights_mib:.0f} MiB, {workers} workers:"
            add(f"{of} ready after", time.monotonic() - started_s, unit="s", digits=1)
            ready_mib = max(mib(pid, "Private_Dirty") for pid in server.worker_pids())
            target = Target(family, server.url)
            n_words = _words_for(target, _CHAT_TOKENS)
            speed = partial(_speed, target, workers, n_words)
            speeds = [speed() for _ in range(setup.rounds)]
            after_mib = max(mib(pid, "Private_Dirty") for pid in server.worker_pids())
            name = f"{of} private memory of a worker, ready / after chats"
            add(name, ready_mib, after_mib, unit="MiB", digits=0)
            add(f"{of} the latter ÷ weights", after_mib / weights_mib, digits=3, goal="≤ 0.15")
            add(f"{of} all processes (Pss)", pss_mib(server), unit="MiB", digits=0)
            name = f"{of} tokens/s, a stream to each worker"
            add(name, statistics.median(speeds), digits=1)
            if workers == 1:
                long = _words_for(target, _LONG_PROMPT_TOKENS)
                times = [ttft_of(target.complete(_prompt(long), 2)) for _ in range(setup.rounds)]
                name = f"{of} TTFT of {_LONG_PROMPT_TOKENS} tokens, alone"
                add(name, statistics.median(times), unit="s", digits=1)


def _prompt(n_words: int) -> str:
    return f"{unlike_any()} is the first. " + "sea " * n_words


def _words_for(target: Target, n_tokens: int) -> int:
    """How many words make a prompt of at most so many tokens."""
    few, many = (target.complete(_prompt(n), 1).prompt_tokens for n in (1, 17))
    return 1 + int((n_tokens - few) / ((many - few) / 16))


def _speed(target: Target, streams: int, n_words: int) -> float:
    """Tokens per second of so many streams at once, each with a prompt of its own."""

    def work(to: Target) -> float:
        return speed_of(to.complete(_prompt(n_words), _ANSWER_TOKENS))

    return sum(target.side_by_side([work] * streams))


def measure_tokenizers(setup: Setup, results: Results) -> None:
    """Add how long each family's tokenizer takes for 100 KB of text, and whether that is linear.

    The vocabulary is the demo model's, of 49,152 tokens, its merges rebuilt as from a legacy file;
    what differs is how each family cuts text into pieces.
    """
    from shared.model.description import Family
    from shared.model.inspect import inspect
    from worker.tokenizer.tokenizer import build_tokenizer
    from worker.tokenizer.vocabulary import Vocabulary

    file = inspect(Path(setup.model))
    mixed = (ROOT / "tests" / "data" / "lines.txt").read_text("utf-8")
    texts = {"mixed": mixed * 3, **{name: one * _N_BYTES for name, one in _PATTERNS.items()}}
    for family in Family:
        # A legacy file of that family: a vocabulary, and nothing else.
        legacy = replace(file, family=family, merges=None, pre_tokenizer=None, add_bos=False)
        started_s = time.perf_counter()
        tokenizer = build_tokenizer(legacy, Vocabulary.from_model(legacy), _no_library)
        built_s = time.perf_counter() - started_s
        times_ms = [_milliseconds(tokenizer.encode, _cut(text), setup) for text in texts.values()]
        long_ms = _milliseconds(tokenizer.encode, _cut(mixed * 12, 4 * _N_BYTES), setup)
        add = partial(results.add, "tokenizers")
        add(f"{family.value}: built in", built_s, unit="s")
        name = f"{family.value}: 100 KB of {' / '.join(texts)}"
        add(name, *times_ms, unit="ms", digits=0, goal="≤ 50")
        add(f"{family.value}: 400 KB ÷ 100 KB, mixed", long_ms / times_ms[0], digits=1)


def _cut(text: str, n_bytes: int = _N_BYTES) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")


def _milliseconds(encode: Callable[..., object], text: str, setup: Setup) -> float:
    times = []
    for _ in range(setup.rounds):
        started_s = time.perf_counter()
        encode((text,))
        times.append((time.perf_counter() - started_s) * 1e3)
    return statistics.median(times)


def _no_library(text: bytes) -> list[int]:
    raise AssertionError("not a BPE vocabulary")
