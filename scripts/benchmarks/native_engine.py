"""A native build of the engine's library against ctransformers' own."""

from gateway import demo_model
from scripts import bench_engine
from scripts.benchmarks.results import Results
from scripts.benchmarks.setup import Setup
from shared.model.library import Cpu, choose, package_library


def measure(setup: Setup, results: Results) -> None:
    """Add the ratios, if there is a native build.

    Raises:
        UsageError: there is no library at all.
    """
    package = package_library(Cpu.here())
    native = choose(None, demo_model.default_cache_dir())
    if native.path == package.path:
        results.notes.append("native: there is none; run `ggml-fastapi build-engine`")
        return
    rows = bench_engine.compare(package.path, native.path, setup.model, rounds=setup.rounds)
    for row in rows:
        name = f"native build ÷ wheel, CPU time: {row.what}, {row.threads} threads"
        goal = f"≥ {bench_engine.GOALS[row.what]:.2f}"
        results.add("native", name, row.ratio, goal=goal)
