"""Ratios of speed: structured output and log probabilities, and a native build of the engine."""

import statistics
from collections import defaultdict
from typing import Any

from scripts.benchmarks.bare_engine import BareEngine
from scripts.benchmarks.setup import Setup, Target
from scripts.figures import Results
from scripts.prompts import words

# Of one kind with another, in a round of the other benchmarks.
_ALTERNATIONS = 4
# Long texts of few constraints, so that all are decoded as long as the others.
_LONG = {"type": "array", "items": {"type": "string"}, "minItems": 10_000}
_FREE = {"ignore_eos": True}
_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "a JSON schema ÷ without": ({"guided_json": _LONG, "ignore_eos": False}, "≥ 0.95"),
    "5 `top_logprobs` ÷ without": ({"logprobs": 5, **_FREE}, "≥ 0.97"),
    "nothing ÷ with nothing, the noise of these": (_FREE, ""),
}


def measure_masks(setup: Setup, results: Results) -> None:
    """Add what schemas and log probabilities cost over HTTP."""
    n = setup.choose(64, 16)
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    with setup.serve() as server:
        target = Target("this server", server.url)
        for number in range(_ALTERNATIONS * setup.rounds + 1):
            for kind, (extra, _) in _KINDS.items():
                # Before and after, and for a short time only: the machine's speed drifts.
                before = _gap_s(target, number, n, _FREE)
                with_it = _gap_s(target, number, n, extra)
                after = _gap_s(target, number, n, _FREE)
                if number:  # the first round warms everything up
                    ratios[kind].append((before + after) / 2 / with_it)
    for kind, (_, goal) in _KINDS.items():
        name = f"decode speed with {kind}"
        results.add("masks", name, statistics.median(ratios[kind]), goal=goal)


def _gap_s(target: Target, number: int, n: int, extra: dict[str, Any]) -> float:
    """Seconds between two pieces of a stream of ``n`` tokens, the median."""
    seen = target.complete(
        f"{number}. A list of sentences as JSON:", n, temperature=1, seed=number, **extra
    )
    return statistics.median(seen.gaps_s)


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
