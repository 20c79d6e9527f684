"""The command line of the fuzzers: ``./scripts/fuzz-http``."""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

_SHOWN = 20
_ENDPOINTS = 20  # about as many share the cases of the document


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Help needs no installation, all that follows does.
    from scripts.fuzz import raw, schema
    from scripts.server import ServerFailed, served

    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    report, is_right = raw.FuzzReport(), True
    try:
        with served(**raw.SETTINGS) as server:
            if options.only != "schema":
                work = raw.fuzz(server, options.cases, options.seed, options.first)
                report = asyncio.run(work)
            if options.only != "raw":
                n_each = max(1, options.cases // _ENDPOINTS)
                is_right = schema.fuzz(server.url, n_each, options.seed)
            if restarts := sum(worker["restarts"] for worker in server.ready()["workers"]):
                report.violations.append(f"{restarts} workers have died")
            report.violations += [f"in the log: {mistake}" for mistake in server.mistakes()[:1]]
    except (ServerFailed, OSError) as error:
        print(f"fuzz-http: {error}", file=sys.stderr)
        return 2
    outcomes = ", ".join(f"{n} x {what}" for what, n in sorted(report.outcomes.items()))
    print(f"raw: {report.cases} cases, {len(report.violations)} violations; {outcomes};")
    print(f"the slowest took {report.slowest_s:.2f} s")
    print(*(f"\nVIOLATION: {each}" for each in report.violations[:_SHOWN]), sep="\n")
    if options.json:
        content = {
            "seed": options.seed, "cases": report.cases, "outcomes": dict(report.outcomes),
            "slowest_s": report.slowest_s, "violations": report.violations,
            "is_document_right": is_right,
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return 0 if is_right and not report.violations else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fuzz-http",
        description="Start a server with the echo engine, and send it spoiled bytes and requests"
        " made from its own OpenAPI document. Exit status 1: a 500, a hang, a worker's death, or"
        " an answer that the document does not allow.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--cases", type=int, default=10_000, metavar="N", help="of each kind")
    add("--only", choices=("raw", "schema"), help="one kind only")
    add("--seed", type=int, default=random.randrange(1 << 32), metavar="N", help="of all chance")
    add("--first", type=int, default=0, metavar="N", help="number of the first raw case")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
