"""The command line of the soak: ``./scripts/soak``. Steady traffic, and what memory it takes."""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gateway import demo_model
from scripts.bench_sides import ROOT
from scripts.campaign import report as reports
from scripts.campaign.clients import Clients, Plan, Report
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.processes import footprint, private_mib
from scripts.campaign.server import CampaignError, CampaignServer, Probe, campaign_server, is_idle
from scripts.campaign.traffic import Limits, learn
from shared.errors import UsageError

GROWTH_GOAL_PERCENT = 2.0
"""How much more memory there may be in the last sixth of the time than in the second one."""
_MARKS = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server holds at one moment.

    Attributes:
        at_s: seconds since the traffic began.
        gateway_mib: resident memory of the gateway.
        workers_mib: private memory of all workers together.
        descriptors: of the gateway.
        threads: of the gateway.
    """

    at_s: float
    gateway_mib: float
    workers_mib: float
    descriptors: int
    threads: int


def growth_percent(samples: Sequence[Sample], name: str) -> float:
    """Mean of the last sixth against that of the second sixth; the first one is the warm-up."""
    end_s = samples[-1].at_s
    early = [getattr(s, name) for s in samples if end_s / 6 <= s.at_s < end_s / 3]
    late = [getattr(s, name) for s in samples if s.at_s >= end_s * 5 / 6]
    return 100 * (fmean(late) / fmean(early) - 1) if early and late else float("nan")


async def soak(plan: Plan, every_s: float) -> tuple[list[Sample], Report]:
    """Run steady traffic, and take a sample every so many seconds.

    Raises:
        CampaignError: the server does not start.
    """
    report, samples = Report(plan), list[Sample]()
    with campaign_server(**plan.settings) as server:
        probe = Probe(server.port)
        if await probe.until(is_idle, 60.0) is None:
            raise CampaignError(f"not all workers come up:\n{server.last_words()}")
        model = (await probe.get("/v1/models"))["data"][0]["id"]
        traffic = await learn(server.port, model, plan.limits, plan.seed)
        faults = Faults(server, plan.schedule, random.Random(plan.seed))
        clients = Clients(server, traffic, plan, report, faults, time.monotonic() + plan.seconds)
        beside = [
            asyncio.create_task(faults.run()),
            asyncio.create_task(_sample(server, probe, every_s, samples)),
        ]
        await clients.run()
        for task in beside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        report.faults = faults.counts
        if await probe.until(is_idle, 30.0) is None:
            report.violate("not idle at the end", server.last_words())
        probe.close()
        report.exit_status, report.exit_s = await asyncio.to_thread(server.terminate)
        if report.exit_status != 0:
            report.violate("SIGTERM", f"exit status {report.exit_status}", server.last_words())
    return samples, report


async def _sample(
    server: CampaignServer, probe: Probe, every_s: float, samples: list[Sample]
) -> None:
    started_s = time.monotonic()
    while True:
        with suppress(OSError):
            workers = (await probe.get())["workers"]
            held = footprint(server.pid)
            private = sum(private_mib(worker["pid"]) for worker in workers if worker["pid"])
            at_s = time.monotonic() - started_s
            samples.append(Sample(at_s, held.rss_mib, private, held.descriptors, held.threads))
        await asyncio.sleep(every_s)


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Write the curves of memory.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    # The same curves give the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "ggml-fastapi", "svg.fonttype": "none"})
    from matplotlib.figure import Figure as Page

    page = Page(figsize=(6.4, 4.0), layout="constrained")
    plot = page.subplots()
    minutes = [sample.at_s / 60 for sample in samples]
    spacing = max(1, len(samples) // _MARKS)
    for name, label, marker in (
        ("gateway_mib", "gateway (resident)", "o"),
        ("workers_mib", "all workers (private)", "s"),
    ):
        values = [getattr(sample, name) for sample in samples]
        plot.plot(minutes, values, marker=marker, markevery=spacing, linewidth=1.8, label=label)
    plot.set(title="Memory under steady traffic", xlabel="minutes", ylabel="MiB")
    plot.set_ylim(bottom=0)
    plot.grid(alpha=0.3)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path, dpi=144, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; the exit status is 1 if memory grows or a request is not as it must be."""
    options = _parser().parse_args(arguments)
    try:
        samples, report = asyncio.run(soak(_plan(options), options.every))
    except (CampaignError, UsageError, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    growth = {name: growth_percent(samples, name) for name in ("gateway_mib", "workers_mib")}
    print(reports.text(report))
    for name, percent in growth.items():
        print(f"{name}: {getattr(samples[-1], name):.1f} MiB, growth {percent:+.2f} %")
    print(f"descriptors {samples[-1].descriptors}, threads {samples[-1].threads}")
    if options.json:
        content = reports.as_json(report)
        content |= {"growth_percent": growth, "samples": [asdict(sample) for sample in samples]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    if options.plot:
        draw(samples, options.plot)
    has_grown = any(percent > GROWTH_GOAL_PERCENT for percent in growth.values())
    return 1 if report.violations or has_grown else 0


def _plan(options: argparse.Namespace) -> Plan:
    settings = {"WORKERS": "2", "PARKED": "2", "MAX_QUEUE": "16", "REQUEST_TIMEOUT": "60"}
    if options.engine == "echo":
        settings |= {"MODEL_TYPE": "echo", "ECHO_DELAY_MS": "5"}
        limits = Limits(12, 120, 24, 60.0, 60.0)
    else:
        settings["MODEL_NAME"] = str(options.model or demo_model.fetch())
        limits = Limits(6, 40, 24, 60.0, 60.0)
    kill_s: float = options.kill_every
    return Plan(
        seconds=options.minutes * 60,
        seed=options.seed,
        settings=settings,
        limits=limits,
        schedule=Schedule(kill_s, 0.0, 0.0, 0.0),
        clients=options.clients,
        burst_s=0.0,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="soak",
        description="Start a server, send it steady mixed traffic, and watch its memory.",
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    add("--minutes", type=float, default=30.0, metavar="N", help="of traffic (default: 30)")
    add("--every", type=float, default=5.0, metavar="S", help="between samples (default: 5)")
    add("--engine", choices=("model", "echo"), default="model", help="default: a real model")
    add("--model", type=Path, metavar="FILE", help="default: the demo model")
    add("--clients", type=int, default=6, metavar="N", help="at the same time (default: 6)")
    add("--kill-every", type=float, default=0.0, metavar="S", help="a worker (default: never)")
    add("--seed", type=int, default=1, metavar="N", help="of all chance (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write the report and all samples there")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        nargs="?",
        const=ROOT / "docs" / "benchmarks" / "soak.svg",
        help="draw the curves there (default file: docs/benchmarks/soak.svg)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
