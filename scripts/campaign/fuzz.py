"""The command line of the HTTP fuzzers: ``./scripts/fuzz-http``."""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.campaign import raw_fuzz, schema_fuzz
from scripts.campaign.raw_fuzz import FuzzReport
from scripts.campaign.server import CampaignError, Probe, campaign_server

SETTINGS = {
    "MODEL_TYPE": "echo",
    "WORKERS": "2",
    "PARKED": "1",
    "RECEIVE_TIMEOUT": f"{raw_fuzz.RECEIVE_TIMEOUT_S:g}",
    "KEEP_ALIVE_TIMEOUT": "1",
    "LOG_LEVEL": "warning",
}
"""Of the server that is fuzzed."""
_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; the exit status is 1 if something is not as it must be."""
    options = _parser().parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    reports: dict[str, FuzzReport] = {}
    try:
        with campaign_server(**SETTINGS) as server:
            if options.only != "schema":
                reports["raw"] = asyncio.run(
                    raw_fuzz.fuzz(server, options.cases, seed, options.first)
                )
            if options.only != "raw":
                url = f"http://127.0.0.1:{server.port}"
                reports["schema"] = schema_fuzz.fuzz(url, options.cases, seed)
                restarts = asyncio.run(_restarts(server.port))
                if restarts:
                    reports["schema"].violations.append(f"{restarts} workers have died")
            if mistakes := server.mistakes():
                last = list(reports.values())[-1]
                last.violations.append(f"in the log: {server.log_around(mistakes[0])}")
    except (CampaignError, OSError) as error:
        print(f"fuzz-http: {error}", file=sys.stderr)
        return 2
    for name, report in reports.items():
        _show(name, report)
    if options.json:
        content = {name: {"seed": seed, **report.as_json()} for name, report in reports.items()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return 1 if any(report.violations for report in reports.values()) else 0


async def _restarts(port: int) -> int:
    status = await Probe(port).get()
    return sum(worker["restarts"] for worker in status["workers"])


def _show(name: str, report: FuzzReport) -> None:
    outcomes = ", ".join(f"{n} x {what}" for what, n in sorted(report.outcomes.items()))
    print(f"{name}: {report.cases} cases, {len(report.violations)} violations; {outcomes};")
    print(f"the slowest took {report.slowest_s:.2f} s")
    for violation in report.violations[:_SHOWN]:
        print(f"\nVIOLATION: {violation}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fuzz-http",
        description="Start a server with the echo engine, and send it spoiled bytes and requests\n"
        "made from its own OpenAPI document. Exit status 1: a 500, a hang, a worker's death, or\n"
        "an answer that the document does not allow.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--cases", type=int, default=10_000, metavar="N", help="of each kind (default: 10000)")
    add("--only", choices=("raw", "schema"), help="one kind only")
    add("--seed", type=int, metavar="N", help="of all chance (default: drawn, and printed)")
    add("--first", type=int, default=0, metavar="N", help="number of the first raw case")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
