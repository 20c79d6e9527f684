"""The command lines of the campaign: ``./scripts/chaos`` and, for steady traffic, ``soak``."""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.settings import Settings
from scripts.campaign import report
from scripts.campaign.asks import Limits
from scripts.campaign.clients import PART_S, Plan
from scripts.campaign.faults import Schedule
from scripts.campaign.run import run
from scripts.campaign.soak import draw_memory, grown
from scripts.server import ROOT, ServerFailed

_SEED = 1 << 32


def main(arguments: Sequence[str] | None = None, prog: str = "chaos") -> int:
    options = _parser(prog).parse_args(arguments)
    if options.seed is None:
        options.seed = random.randrange(_SEED)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    try:
        found, samples = asyncio.run(run(plan_of(options), options.every))
    except (ServerFailed, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for what in grown(samples) if options.every else ():
        found.violate("it has grown", what)
    print(report.text(found, samples))
    if options.json:
        content = json.dumps(report.as_json(found, samples), indent=2, ensure_ascii=False)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(content + "\n", "utf-8")
    if options.plot:
        draw_memory(samples, options.plot)
    return 1 if found.violations else 0


def soak(arguments: Sequence[str] | None = None) -> int:
    return main(arguments, "soak")


def plan_of(options: argparse.Namespace) -> Plan:
    is_soak = bool(options.every)
    queue_s = 60.0 if is_soak else 20.0
    settings = {
        "WORKERS": str(options.workers), "PARKED": "2", "MAX_QUEUE": "16", "REQUEST_TIMEOUT": "60",
        "QUEUE_TIMEOUT": f"{queue_s:g}", "RECEIVE_TIMEOUT": "10", "DRAIN_TIMEOUT": "10",
    }  # fmt: skip
    if options.engine == "echo":
        settings |= {"MODEL_TYPE": "echo", "ECHO_DELAY_MS": f"{options.echo_delay_ms:g}"}
        # A worker that dies takes as many requests with it.
        if "slots" in Settings.__dataclass_fields__:
            settings["SLOTS"] = str(options.slots)
        limits = Limits(12, 120, 24, 60.0, queue_s)
    else:
        if options.model:
            settings["MODEL_NAME"] = str(options.model.resolve())
        limits = Limits(6, 40, 24, 60.0, queue_s)
    n_slots = options.workers * (options.slots if options.engine == "echo" else 1)
    return Plan(
        seconds=options.minutes * 60,
        seed=options.seed,
        settings=settings,
        limits=limits,
        schedule=Schedule(options.kill_every, options.stop_every, options.zygote_every),
        clients=options.clients,
        burst_s=0.0 if is_soak else PART_S,
        burst=10 * (n_slots + 16),
        reload=options.reload,
        n_releases=options.releases,
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    is_soak = prog == "soak"
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Start a server, send it steady mixed traffic, and watch its memory."
        if is_soak
        else "Start a server, send it mixed traffic whose answers are known, harm it in every way"
        " there is, and judge each request. Exit status 1: something was not as it must.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add: Any = parser.add_argument

    def number(name: str, default: float, in_soak: float, metavar: str, text: str) -> None:
        kind, default = type(default), in_soak if is_soak else default
        add(name, type=kind, default=kind(default), metavar=metavar, help=text)

    number("--minutes", 10.0, 30.0, "N", "of traffic")
    add("--engine", choices=("model", "echo"), default="model", help="a real model, or none")
    add("--model", type=Path, metavar="FILE", help="instead of the demo model")
    number("--echo-delay-ms", 5.0, 5.0, "MS", "for a token of the echo engine")
    number("--slots", 4, 4, "N", "of an echo worker: requests that it runs at once")
    number("--workers", 4, 2, "N", "of the server")
    number("--clients", 12, 6, "N", "that ask at the same time, besides bursts")
    number("--kill-every", 2.0, 0.0, "S", "a worker is killed; 0: never")
    number("--stop-every", 10.0, 0.0, "S", "a worker is stopped; 0: never")
    number("--zygote-every", 60.0, 0.0, "S", "the process that workers are forked from is killed")
    number("--releases", 100, 0, "N", "how often it is measured how soon a worker is free")
    number("--every", 0.0, 5.0, "S", "between samples of memory; 0: none")
    add("--reload", action="store_true", help="have it load its model again half-way")
    add("--seed", type=int, metavar="N", help="of what is asked and harmed, instead of a drawn one")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    plot = ROOT / "docs" / "benchmarks" / "soak.svg"
    add("--plot", type=Path, metavar="FILE", nargs="?", const=plot, help="draw the memory there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
