"""The command line of the benchmarks: ``./scripts/bench``."""

import argparse
import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gateway import demo_model
from scripts.benchmarks import compare, costs, overload, processes, reuse, throughput
from scripts.benchmarks.setup import RequestFailed, Setup, describe_machine
from scripts.figures import Axes, Results, draw, table
from scripts.server import ROOT, ServerFailed
from shared.errors import UsageError

Measure = Callable[[Setup, Results], None]
PARTS: dict[str, tuple[str, Measure]] = {
    "throughput": ("tokens/s at 1 to 8 streams, bare engine", throughput.measure_throughput),
    "chats": ("chats of many turns: tokens reused", reuse.measure_chats),
    "shared": ("a shared system prompt: tokens evaluated", reuse.measure_shared),
    "lengths": ("TTFT by prompt length, with and without reuse", reuse.measure_lengths),
    "workers": ("memory and start of workers", processes.measure_workers),
    "gateway": ("the gateway's CPU time, memory and stalls", processes.measure_gateway),
    "masks": ("what schemas and log probabilities cost", costs.measure_masks),
    "overload": ("ten times the load that can be served", overload.measure_overload),
    "native": ("a native build of the engine against the wheel's", costs.measure_native),
}
PLOTS = {
    "throughput": Axes("Throughput", "streams at once", "output tokens/s", log_x=True),
    "ttft": Axes("Time to first token", "prompt, words (about tokens)", "seconds"),
    "memory": Axes("Memory of all processes", "workers", "MB (Pss)"),
    "cpu": Axes("Gateway CPU time", "streams at once", "µs per token", log_x=True),
    "compare-throughput": Axes(
        "Throughput, in turn in one run", "streams at once", "output tokens/s", log_x=True
    ),
    "compare-ttft": Axes(
        "Time to first token, in turn in one run", "prompt, words (about tokens)", "seconds"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(PARTS)
    if (options.compare or options.against) and not options.only:
        chosen = []
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        print(f"bench: --only {unknown[0]}: it must be of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    # So that servers are ended, as they are after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        # Servers run in another folder.
        model = options.model.resolve() if options.model else demo_model.fetch()
        setup = Setup(str(model), options.rounds or (1 if options.quick else 7), options.quick)
        name = options.model.name if options.model else "SmolLM2-135M-Instruct Q4_1"
        results = Results(describe_machine(name))
        print(results.machine, flush=True)
        try:
            for name in chosen:
                _run(name, PARTS[name][0], PARTS[name][1], setup, results)
            if options.compare:
                urls = [url.rstrip("/") for url in options.compare.split(",")]
                measure = partial(compare.measure_urls, urls=urls)
                _run("compare", f"against {', '.join(urls)}, in turn", measure, setup, results)
            if options.against:
                tree = str(options.against.resolve())
                measure = partial(compare.measure_tree, tree=tree)
                _run("against", f"against {tree}, in turn", measure, setup, results)
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


def _run(name: str, what: str, measure: Measure, setup: Setup, results: Results) -> None:
    print(f"{name}: {what} ...", file=sys.stderr, flush=True)
    started_s, before = time.monotonic(), len(results.figures)
    try:
        measure(setup, results)
    except (RequestFailed, ServerFailed, OSError) as error:
        if name == "compare":
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
    add = parser.add_argument
    rounds = "of each measurement (default: 7; quick: 1)"
    add("--rounds", type=int, choices=range(1, 1000), metavar="N", help=rounds)
    add("--quick", action="store_true", help="short texts: a trial, no figures")
    add("--only", default="", metavar="PART[,PART]", help="default: all parts")
    others = "measure against other OpenAI-style servers, which run already"
    add("--compare", default="", metavar="URL[,URL]", help=others)
    tree = "measure against another checkout of this project, with its .venv; with this or"
    tree += " --compare nothing else is measured without --only"
    add("--against", type=Path, metavar="DIR", help=tree)
    add("--model", type=Path, metavar="FILE", help="default: the demo model")
    add("--json", type=Path, metavar="FILE", help="write the results there")
    folder = ROOT / "docs" / "benchmarks"
    plots = "write plots there (default folder: docs/benchmarks)"
    add("--plots", type=Path, metavar="FOLDER", nargs="?", const=folder, help=plots)
    add("--formats", default="svg", metavar="svg,png", help="of the plots")
    return parser


if __name__ == "__main__":
    sys.exit(main())
