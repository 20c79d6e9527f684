"""The command line of the benchmarks: ``./scripts/bench``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PARTS = {
    "throughput": "tokens/s at 1 to 8 streams, bare engine",
    "chats": "chats of many turns: tokens reused",
    "shared": "a shared system prompt: tokens evaluated",
    "lengths": "TTFT by prompt length, with and without reuse",
    "workers": "memory and start of workers",
    "gateway": "the gateway's CPU time, memory and stalls",
    "masks": "what schemas and log probabilities cost",
    "step": "a step of eight rows without its evaluation, and a draw",
    "overload": "ten times the load that can be served",
    "native": "a native build of the engine against the wheel's",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    parts = options.only.split(",") if options.only else list(PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        print(f"bench: --only {unknown[0]}: it must be of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if (options.compare or options.against) and not options.only:
        parts = []
    # Help needs no installation, all that follows does.
    from scripts.benchmarks.run import run

    return run(options, parts)


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:<11} {what}" for name, what in PARTS.items())
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
    others = "measure against other OpenAI-style servers, which run already; llama-server starts"
    others += " llama.cpp's own on the same file, and measures its library alone, too"
    add("--compare", default="", metavar="URL[,URL]|llama-server", help=others)
    tokens = "of each stream beside llama-server (default: 128); prompts grow with it"
    add("--tokens", type=int, choices=range(16, 1025), metavar="N", help=tokens)
    tree = "measure against another checkout of this project, with its .venv; with this or"
    tree += " --compare nothing else is measured without --only"
    add("--against", type=Path, metavar="DIR", help=tree)
    models = (
        "default: the demo model; gemma3-270m and llama-1b (random weights) are made in the cache"
    )
    add("--model", default="", metavar="FILE|NAME", help=models)
    add("--json", type=Path, metavar="FILE", help="write the results there")
    folder = Path(__file__).parents[2] / "docs" / "benchmarks"
    plots = "write plots there (default folder: docs/benchmarks)"
    add("--plots", type=Path, metavar="FOLDER", nargs="?", const=folder, help=plots)
    add("--formats", default="svg", metavar="svg,png", help="of the plots")
    return parser


if __name__ == "__main__":
    sys.exit(main())
