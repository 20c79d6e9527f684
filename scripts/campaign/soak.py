"""The command line of the soak: ``./scripts/soak``. Steady traffic, and what memory it takes."""

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from gateway import demo_model
from scripts.bench_sides import ROOT
from scripts.campaign import report as reports
from scripts.campaign.clients import Plan, Report
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.processes import footprint, private_mib
from scripts.campaign.rest import PER_ZYGOTE, check_end, check_rest
from scripts.campaign.run import disturb
from scripts.campaign.server import CampaignError, CampaignServer, Probe, campaign_server, is_idle
from scripts.campaign.traffic import Limits, learn
from shared.errors import UsageError

GROWTH_GOAL_PERCENT = 2.0
"""How much more memory there may be in the last sixth of the time than in the second one."""
_MARKS = 12
_GROWING = ("gateway_mib", "workers_mib", "zygotes_mib")
_COUNTED = ("zygotes", "descriptors", "threads")
# From sixth to sixth, at the median: connections come and go.
_MORE = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server holds at one moment.

    Attributes:
        at_s: seconds since the traffic began.
        gateway_mib: resident memory of the gateway.
        workers_mib: private memory of all workers together.
        zygotes_mib: and of what they are forked from.
        zygotes: how many of these there are.
        descriptors: of the gateway.
        threads: of the gateway.
    """

    at_s: float
    gateway_mib: float
    workers_mib: float
    zygotes_mib: float
    zygotes: int
    descriptors: int
    threads: int


def growth_percent(samples: Sequence[Sample], name: str) -> float:
    """Mean of the last sixth against that of the second sixth; the first one is the warm-up.

    Returns:
        NaN if there are no samples to compare.
    """
    early, late = _compared(samples)
    if not early or not late:
        return math.nan
    was, now = (fmean(getattr(sample, name) for sample in some) for some in (early, late))
    return 100 * (now / was - 1) if was else math.nan


def held_more(samples: Sequence[Sample]) -> list[str]:
    """Of what there is more at the end than in the second sixth, at the median, and may not be."""
    early, late = _compared(samples)
    if not early or not late:
        return ["there are too few samples to compare"]
    was, now = (
        {name: median(getattr(each, name) for each in some) for name in _COUNTED}
        for some in (early, late)
    )
    more = max(0.0, now["zygotes"] - was["zygotes"]) * PER_ZYGOTE
    allowed = {"zygotes": math.inf, "descriptors": _MORE + more, "threads": _MORE}
    return [
        f"{name}: {was[name]:g}, and {now[name]:g} at the end"
        for name in _COUNTED
        if now[name] > was[name] + allowed[name]
    ]


def has_grown(growth: Mapping[str, float]) -> bool:
    """Whether any growth, in percent, misses the goal; one that is not known does."""
    return not all(percent <= GROWTH_GOAL_PERCENT for percent in growth.values())


def _compared(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    end_s = samples[-1].at_s if samples else 0.0
    early = [sample for sample in samples if end_s / 6 <= sample.at_s < end_s / 3]
    return early, [sample for sample in samples if sample.at_s >= end_s * 5 / 6]


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
        faults = Faults(server, plan.schedule, plan.seed)
        sampling = asyncio.create_task(_sample(server, every_s, samples))
        await disturb(server, traffic, faults, report)
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        if short := report.parts.violations():
            report.violate("hardly anything was answered", *short, kinds=["outcome"])
        await check_rest(server, probe, traffic, faults, report)
        probe.close()
        await asyncio.to_thread(check_end, server, report)
    for what in held_more(samples):
        report.violate("it has grown", what)
    return samples, report


async def _sample(server: CampaignServer, every_s: float, samples: list[Sample]) -> None:
    started_s, probe = time.monotonic(), Probe(server.port)
    try:
        while True:
            with suppress(OSError):
                workers = (await probe.get())["workers"]
                held, zygotes = footprint(server.pid), server.zygotes()
                samples.append(
                    Sample(
                        at_s=time.monotonic() - started_s,
                        gateway_mib=held.rss_mib,
                        workers_mib=sum(private_mib(w["pid"]) for w in workers if w["pid"]),
                        zygotes_mib=sum(map(private_mib, zygotes)),
                        zygotes=len(zygotes),
                        descriptors=held.descriptors,
                        threads=held.threads,
                    )
                )
            await asyncio.sleep(every_s)
    finally:
        probe.close()


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
        ("zygotes_mib", "zygotes (private)", "^"),
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
    """Run a soak; the exit status is 1 if something grows or a request is not as it must be."""
    options = _parser().parse_args(arguments)
    try:
        samples, report = asyncio.run(soak(_plan(options), options.every))
    except (CampaignError, UsageError, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    growth = {name: growth_percent(samples, name) for name in _GROWING}
    print(reports.text(report))
    if not samples:
        print("soak: there is no sample", file=sys.stderr)
        return 1
    for name, percent in growth.items():
        print(f"{name}: {getattr(samples[-1], name):.1f} MiB, growth {percent:+.2f} %")
    print(f"descriptors {samples[-1].descriptors}, threads {samples[-1].threads}")
    if options.json:
        content = reports.as_json(report)
        known = {name: None if math.isnan(n) else n for name, n in growth.items()}
        content |= {"growth_percent": known, "samples": [asdict(sample) for sample in samples]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    if options.plot:
        draw(samples, options.plot)
    return 1 if report.violations or has_grown(growth) else 0


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
