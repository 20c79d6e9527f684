"""One run of the benchmarks, whatever it is interrupted by."""

import argparse
import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway import demo_model
from scripts.benchmarks import (
    compare,
    costs,
    llama_server,
    overload,
    processes,
    reuse,
    steps,
    throughput,
)
from scripts.benchmarks.setup import RequestFailed, Setup, describe_machine
from scripts.figures import Axes, Results, draw, table
from scripts.models import large
from scripts.server import ServerFailed
from shared.errors import UsageError

Measure = Callable[[Setup, Results], None]
MEASURES: dict[str, Measure] = {
    "throughput": throughput.measure_throughput,
    "chats": reuse.measure_chats,
    "shared": reuse.measure_shared,
    "lengths": reuse.measure_lengths,
    "workers": processes.measure_workers,
    "gateway": processes.measure_gateway,
    "masks": costs.measure_masks,
    "step": steps.measure_steps,
    "overload": overload.measure_overload,
    "native": costs.measure_native,
}
PLOTS = {
    "throughput": Axes("Throughput", "streams at once", "output tokens/s", log_x=True),
    "ttft": Axes("Time to first token", "prompt, words (about tokens)", "seconds"),
    "memory": Axes("Memory of all processes", "workers", "MB (Pss)"),
    "cpu": Axes("Gateway CPU time", "streams at once", "µs per token", log_x=True),
    "compare-throughput": Axes(
        "Throughput, in turn in one run", "streams at once", "output tokens/s", log_x=True
    ),
    llama_server.NAME: Axes(
        "Throughput beside llama-server", "streams at once", "output tokens/s", log_x=True
    ),
    "compare-ttft": Axes(
        "Time to first token, in turn in one run", "prompt, words (about tokens)", "seconds"
    ),
}


def run(options: argparse.Namespace, parts: list[str]) -> int:
    """Measure and write; returns the exit status."""
    # So that servers are ended, as they are after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        # Servers run in another folder.
        model = _model(options)
        setup = Setup(
            str(model.resolve()), options.rounds or (1 if options.quick else 7), options.quick
        )
        name = model.name if options.model else "SmolLM2-135M-Instruct Q4_1"
        results = Results(describe_machine(name))
        print(results.machine, flush=True)
        try:
            for name, measure in _measures(options, parts).items():
                _run(name, measure, setup, results)
        finally:
            # Also when it ends early; but nothing is no reason to replace an older file.
            if results.figures or results.notes:
                _finish(results, options)
    except (UsageError, ServerFailed, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _model(options: argparse.Namespace) -> Path:
    if options.model in large.MODELS:
        return large.MODELS[options.model]()
    return Path(options.model or demo_model.fetch())


def _measures(options: argparse.Namespace, parts: list[str]) -> dict[str, Measure]:
    measures = {name: MEASURES[name] for name in parts}
    others = [url.rstrip("/") for url in options.compare.split(",") if url]
    if llama_server.NAME in others:
        others.remove(llama_server.NAME)
        measures[llama_server.NAME] = partial(
            llama_server.measure_llama_server, tokens=options.tokens, is_demo=not options.model
        )
    if others:
        measures["compare"] = partial(compare.measure_urls, urls=others)
    if options.against:
        tree = str(options.against.resolve())
        measures["against"] = partial(compare.measure_tree, tree=tree)
    return measures


def _run(name: str, measure: Measure, setup: Setup, results: Results) -> None:
    print(f"{name} ...", file=sys.stderr, flush=True)
    started_s, before = time.monotonic(), len(results.figures)
    try:
        measure(setup, results)
    except (RequestFailed, ServerFailed, OSError) as error:
        if name in ("compare", llama_server.NAME):
            raise
        # What the other parts measure is worth having all the same.
        results.notes.append(f"{name} was given up: {error}")
    print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    if len(results.figures) > before:
        print(f"\n{table(results.figures[before:])}", flush=True)


def _finish(results: Results, options: argparse.Namespace) -> None:
    for note in results.notes:
        print(f"\nNote: {note}")
    written: list[Path] = []
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        options.json.write_text(text + "\n", "utf-8")
        written.append(options.json)
    for name, axes in PLOTS.items() if options.plots else ():
        curves = [curve for curve in results.series if curve.plot == name]
        paths = [options.plots / f"{name}.{suffix}" for suffix in options.formats.split(",")]
        written += [draw(axes, curves, path) for path in paths if curves]
    if written:
        print("\nwritten: " + ", ".join(map(str, written)), file=sys.stderr)
