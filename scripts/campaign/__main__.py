"""The command line of the campaign: ``./scripts/chaos``, and ``./scripts/soak`` without harm."""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.campaign.report import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Help needs no installation, all that follows does.
    from scripts.campaign.memory import draw_memory
    from scripts.campaign.run import run
    from scripts.server import ServerFailed

    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    try:
        report = asyncio.run(run(plan_of(options)))
    except (ServerFailed, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report.text())
    if options.json:
        content = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(content + "\n", "utf-8")
    if options.plot:
        draw_memory(report.samples, options.plot)
    return 1 if report.violations else 0


def plan_of(options: argparse.Namespace) -> "Plan":
    from scripts.campaign.asks import Limits
    from scripts.campaign.faults import Schedule
    from scripts.campaign.report import PART_S, Plan

    queue_s = 60.0 if options.steady else 20.0
    settings = {
        "WORKERS": str(options.workers), "PARKED": "2", "MAX_QUEUE": "16", "REQUEST_TIMEOUT": "60",
        "QUEUE_TIMEOUT": f"{queue_s:g}", "RECEIVE_TIMEOUT": "10", "DRAIN_TIMEOUT": "10",
    }  # fmt: skip
    is_echo = options.engine == "echo"
    if is_echo:
        settings |= {"MODEL_TYPE": "echo", "ECHO_DELAY_MS": "5"}
    else:
        # What runs beside a request must not change its text: it is compared.
        settings |= {"ENGINE": options.engine, "EXACT": "1"}
        settings["MODEL_NAME"] = str(options.model.resolve()) if options.model else ""
    # A worker that dies takes as many requests with it as it has slots.
    slots = 1 if options.engine == "ctransformers" else options.slots
    settings["SLOTS"] = str(slots)
    short, long = (12, 120) if is_echo else (6, 40)
    schedule = Schedule(options.kill_every, options.stop_every, options.zygote_every)
    return Plan(
        seconds=options.minutes * 60,
        seed=options.seed,
        settings=settings,
        limits=Limits(short, long, 24, 60.0, queue_s),
        schedule=Schedule(0, 0, 0) if options.steady else schedule,
        clients=options.clients,
        burst_s=0.0 if options.steady else PART_S,
        burst=10 * (options.workers * slots + 16),
        reload=options.reload,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chaos",
        description="Start a server, send it mixed traffic whose answers are known, harm it in"
        " every way there is, and judge each request. Exit status 1: something was not as it must.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    seconds: dict[str, Any] = {"type": float, "metavar": "S"}
    add("--minutes", type=float, default=10.0, metavar="N", help="of traffic")
    engines = ("llamacpp", "ctransformers", "echo")
    add("--engine", choices=engines, default="llamacpp", help="of a real model, or none")
    add("--model", type=Path, metavar="FILE", help="instead of the demo model")
    add("--slots", type=int, default=8, metavar="N", help="of a worker; ctransformers has one")
    add("--workers", type=int, default=4, metavar="N", help="of the server")
    add("--clients", type=int, default=12, metavar="N", help="at the same time, besides bursts")
    add("--kill-every", default=2.0, **seconds, help="a worker is killed; 0: never")
    add("--stop-every", default=10.0, **seconds, help="a worker is stopped; 0: never")
    add("--zygote-every", default=60.0, **seconds, help="the zygote is killed; 0: never")
    add("--reload", action="store_true", help="have it load its model again half-way")
    steady = "no harm and no bursts, as ./scripts/soak has it: memory may hardly grow"
    add("--steady", action="store_true", help=steady)
    seed = random.randrange(1 << 32)
    add("--seed", type=int, default=seed, metavar="N", help="of what is asked and harmed")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    plot = Path(__file__).parents[2] / "docs" / "benchmarks" / "soak.svg"
    add("--plot", type=Path, metavar="FILE", nargs="?", const=plot, help="draw the memory there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
