"""The command line of the benchmarks: ``./scripts/bench``."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gateway import demo_model
from scripts.bench_sides import ROOT, ServerFailed
from scripts.benchmarks import (
    compare,
    conversations,
    gateway_cost,
    latency,
    native_engine,
    overload,
    plots,
    prompt_length,
    shared_prompt,
    single,
    structured,
    throughput,
    workers,
)
from scripts.benchmarks.results import Results, table
from scripts.benchmarks.setup import QUICK_ROUNDS, Setup, describe_machine
from scripts.benchmarks.target import RequestFailed
from shared.errors import UsageError

PARTS: dict[str, tuple[str, Callable[[Setup, Results], None]]] = {
    "single": ("one and two streams against ctransformers in process", single.measure),
    "throughput": ("tokens/s at 1 to 8 streams against the bare engine", throughput.measure),
    "chats": ("chats of many turns: reuse, and TTFT with and without", conversations.measure),
    "shared": ("a shared system prompt: tokens evaluated", shared_prompt.measure),
    "latency": ("TTFT that gateway and pool add", latency.measure),
    "lengths": ("TTFT by prompt length, with and without reuse", prompt_length.measure),
    "workers": ("memory and start of workers, sampler", workers.measure),
    "gateway": ("the gateway's CPU time, memory and stalls", gateway_cost.measure),
    "validity": ("structured output of 200 schemas, checked", structured.measure_validity),
    "masks": ("what schemas and log probabilities cost", structured.measure_cost),
    "overload": ("ten times the load that can be served", overload.measure),
    "native": ("a native build of the engine against the wheel's", native_engine.measure),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit status."""
    options = _parser().parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(PARTS)
    if options.compare and not options.only:
        chosen = []
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        print(f"bench: --only {unknown[0]}: it must be of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    # So that servers are ended, as they are after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else 7)
    try:
        # Servers run in another folder.
        model = options.model.resolve() if options.model else demo_model.fetch()
        setup = Setup(model, rounds, options.quick)
        name = options.model.name if options.model else "SmolLM2-135M-Instruct Q4_1"
        results = Results(describe_machine(name))
        print(results.machine, flush=True)
        try:
            for name in chosen:
                what, measure = PARTS[name]
                _timed(name, what, partial(measure, setup, results), results)
            if options.compare:
                urls = [url.rstrip("/") for url in options.compare.split(",")]
                what = f"against {', '.join(urls)}, in turn"
                _timed("compare", what, partial(compare.measure, setup, results, urls), results)
        finally:
            # Also when it ends early; but nothing is no reason to replace an older file.
            if results.figures or results.notes:
                _finish(results, options)
    except (UsageError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _timed(name: str, what: str, measure: Callable[[], None], results: Results) -> None:
    """Run a part, say on standard error how it goes, and print its table."""
    print(f"{name}: {what} ...", file=sys.stderr, flush=True)
    started, before = time.monotonic(), len(results.figures)
    try:
        measure()
    except (RequestFailed, ServerFailed, OSError) as error:
        # What the other parts measure is worth having all the same.
        results.notes.append(f"{name} was given up: {error}")
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if len(results.figures) > before:
        print(f"\n{table(results.figures[before:])}", flush=True)


def _finish(results: Results, options: argparse.Namespace) -> None:
    for note in results.notes:
        print(f"\nNote: {note}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        options.json.write_text(text + "\n", "utf-8")
        print(f"\nwritten: {options.json}", file=sys.stderr)
    if options.plots:
        try:
            written = plots.draw(results.series, options.plots, options.formats.split(","))
        except ImportError:
            raise UsageError("plots need matplotlib: pip install 'ggml-fastapi[bench]'") from None
        print("written: " + ", ".join(map(str, written)), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:<11} {what}" for name, (what, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure the server in this tree, print tables in Markdown, draw plots.\n"
        "Every round measures all sides one after another, and a ratio is the median of the\n"
        "rounds' ratios: only ratios within one run mean anything.",
        epilog=f"parts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rounds", type=_whole, metavar="N", help="of each measurement (default: 7; quick: 1)"
    )
    parser.add_argument("--quick", action="store_true", help="short texts: a trial, no figures")
    parser.add_argument("--only", default="", metavar="PART[,PART]", help="default: all parts")
    parser.add_argument(
        "--compare",
        default="",
        metavar="URL[,URL]",
        help="measure against other OpenAI-style servers, which run already; without --only"
        " nothing else is measured",
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="default: the demo model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        nargs="?",
        const=ROOT / "docs" / "benchmarks",
        help="write plots there (default folder: docs/benchmarks)",
    )
    parser.add_argument("--formats", default="svg", metavar="svg,png", help="of the plots")
    return parser


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
