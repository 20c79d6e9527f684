"""The command line of the campaign: ``./scripts/chaos``."""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway import demo_model
from scripts.campaign import report
from scripts.campaign.clients import Plan
from scripts.campaign.faults import Schedule
from scripts.campaign.run import run
from scripts.campaign.server import CampaignError
from scripts.campaign.traffic import Limits
from shared.errors import UsageError

_REQUEST_TIMEOUT_S, _QUEUE_TIMEOUT_S = 60.0, 20.0
_MAX_QUEUE = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; the exit status is 1 if there is a violation."""
    options = _parser().parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    try:
        found = asyncio.run(run(plan_of(options, seed)))
    except (CampaignError, UsageError, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report.text(found))
    if options.json:
        content = json.dumps(report.as_json(found), indent=2, ensure_ascii=False)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(content + "\n", "utf-8")
    return 1 if found.violations else 0


def plan_of(options: argparse.Namespace, seed: int) -> Plan:
    """The plan that the options ask for.

    Raises:
        UsageError: the demo model cannot be had.
    """
    settings = {
        "WORKERS": str(options.workers),
        "PARKED": "2",
        "MAX_QUEUE": str(_MAX_QUEUE),
        "REQUEST_TIMEOUT": f"{_REQUEST_TIMEOUT_S:g}",
        "QUEUE_TIMEOUT": f"{_QUEUE_TIMEOUT_S:g}",
        "RECEIVE_TIMEOUT": "10",
        "DRAIN_TIMEOUT": "10",
    }
    if options.engine == "echo":
        settings |= {"MODEL_TYPE": "echo", "ECHO_DELAY_MS": f"{options.echo_delay_ms:g}"}
        short, long, words = 12, 120, 24
    else:
        settings["MODEL_NAME"] = str(options.model or demo_model.fetch())
        short, long, words = 6, 40, 24
    return Plan(
        seconds=options.minutes * 60,
        seed=seed,
        settings=settings,
        limits=Limits(short, long, words, _REQUEST_TIMEOUT_S, _QUEUE_TIMEOUT_S),
        schedule=Schedule(options.kill_every, options.stop_every, options.zygote_every),
        clients=options.clients,
        burst=10 * (options.workers + _MAX_QUEUE),
        reload=options.reload,
        n_releases=options.releases,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chaos",
        description="Start a server, send it mixed traffic whose answers are known, harm it in\n"
        "every way there is, and judge each request. Exit status 1: something was not as it must.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, metavar="N", help="of traffic (default: 10)")
    add("--engine", choices=("model", "echo"), default="model", help="default: a real model")
    add("--model", type=Path, metavar="FILE", help="default: the demo model")
    add("--echo-delay-ms", type=float, default=5.0, metavar="MS", help="for a token (default: 5)")
    add("--workers", type=int, default=4, metavar="N", help="of the server (default: 4)")
    add("--clients", type=int, default=12, metavar="N", help="besides bursts (default: 12)")
    add(
        "--kill-every", type=float, default=2.0, metavar="S", help="a worker is killed (default: 2)"
    )
    add(
        "--stop-every",
        type=float,
        default=10.0,
        metavar="S",
        help="a worker is stopped (default: 10)",
    )
    add(
        "--zygote-every",
        type=float,
        default=60.0,
        metavar="S",
        help="the zygote is killed (default: 60)",
    )
    add("--releases", type=int, default=100, metavar="N", help="measured first (default: 100)")
    add("--reload", action="store_true", help="tell it to load its model again half-way")
    add("--seed", type=int, metavar="N", help="of what is asked and harmed (default: drawn)")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
