"""A campaign from the server's start to its end, and what must be so when its traffic is over."""

import asyncio
import random
import signal
import time
from contextlib import suppress
from dataclasses import asdict

from scripts.campaign.asks import Traffic, learn
from scripts.campaign.clients import Plan, Report, disturb
from scripts.campaign.exchange import PROMPT, Probe, exchange
from scripts.campaign.faults import Faults
from scripts.campaign.oracle import FaultLog, Kind, judge
from scripts.campaign.release import measure_release
from scripts.campaign.soak import Sample, sample
from scripts.processes import Footprint, footprint, processes_of_session
from scripts.server import Server, ServerFailed, is_idle, served

_IDLE_WITHIN_S = 30.0
_GONE_WITHIN_S = 2.0
_SETTLES_WITHIN_S = 10.0
_ANSWERED_WITHIN_S = 60.0
_MORE_DESCRIPTORS = 2
# A pool of threads never shrinks, and may not have been at its full size before.
_MORE_THREADS = 8
# What arenas of glibc hold back differs by a few MiB from run to run.
_MORE_RSS_SHARE, _MORE_RSS_MIB = 0.05, 6.0
# Bursts between two looks at the gateway's memory, and the most such rounds. It is still when it
# has grown by less than this in one.
_WARM_UP_BURSTS, _MOST_WARM_UPS, _STILL = 4, 6, 1.005


async def run(plan: Plan, every_s: float = 0.0) -> tuple[Report, list[Sample]]:
    """Run a campaign; with ``every_s``, take samples of the server's memory meanwhile.

    Raises:
        ServerFailed: the server does not start, or does not answer before anything is done to it.
    """
    with served(**plan.settings) as server:
        report, probe, samples = Report(plan), Probe(server.port), list[Sample]()
        model = (await probe.get("/v1/models"))["data"][0]["id"]
        traffic = await learn(server.port, model, plan.limits, plan.seed)
        if plan.burst_s:
            await _warm_up(server, traffic, plan)
        if plan.n_releases:
            has_chunks = plan.settings.get("MODEL_TYPE") != "echo"
            report.release = await asyncio.to_thread(
                measure_release, server, model, plan.n_releases, has_chunks
            )
        await probe.until(is_idle, _IDLE_WITHIN_S)
        report.before = footprint(server.pid)
        sampling = asyncio.create_task(sample(server, every_s, samples))
        faults = await disturb(server, traffic, report)
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        await check_rest(server, probe, traffic, faults, report)
        probe.close()
        await asyncio.to_thread(check_end, server, report)
        return report, samples


async def _warm_up(server: Server, traffic: Traffic, plan: Plan) -> None:
    """Have the gateway grow to the size that its traffic needs, which takes several bursts."""
    source = random.Random(f"{plan.seed} warm-up")
    for _ in range(_MOST_WARM_UPS):
        before = footprint(server.pid).rss_mib
        for _ in range(_WARM_UP_BURSTS):
            asks = [traffic.short(source) for _ in range(min(plan.burst, 200))]
            await asyncio.gather(*(exchange(server.port, ask, PROMPT, 60.0) for ask in asks))
        if footprint(server.pid).rss_mib < _STILL * before:
            return


async def check_rest(
    server: Server, probe: Probe, traffic: Traffic, faults: Faults, report: Report
) -> None:
    """Everything is free and serves, what was stopped is gone, and nothing has grown."""
    if not server.is_alive:
        report.violate("the gateway has ended", server.log(), kinds=["outcome"])
        return
    status = await probe.until(is_idle, _IDLE_WITHIN_S)
    if status is None:
        with suppress(OSError):
            status = await probe.get()
        report.violate("not idle at the end", str(status), server.log())
    await _check_service(server, traffic, report, _slots(status))
    await probe.until(is_idle, _IDLE_WITHIN_S)
    await _check_stopped(server, faults, report)
    await _check_growth(server, report)


def check_end(server: Server, report: Report) -> None:
    """It ends when it is told to, leaves nothing behind, and its log tells of no mistake."""
    if server.is_alive:
        started_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        try:
            status = server.wait_for_exit()
        except ServerFailed as error:
            report.violate("SIGTERM", str(error))
        else:
            report.exit_s = time.monotonic() - started_s
            if status != 0:
                report.violate("SIGTERM", f"exit status {status}", server.log())
        if left := server.wait_until_gone(_GONE_WITHIN_S):
            report.violate("SIGTERM", f"processes that are left: {left}", server.log())
    if mistakes := server.mistakes():
        report.violate("the log tells of mistakes", *mistakes[:5])


def _slots(status: dict[str, object] | None) -> int:
    slots = (status or {}).get("slots")
    return slots if isinstance(slots, int) else 1


async def _check_service(server: Server, traffic: Traffic, report: Report, n: int) -> None:
    """As many requests as there are slots are answered right, all at the same time."""
    source = random.Random(f"{report.plan.seed} rest")
    asks = [traffic.short(source) for _ in range(n)]
    answers = await asyncio.gather(
        *(exchange(server.port, ask, PROMPT, _ANSWERED_WITHIN_S) for ask in asks)
    )
    for ask, answer in zip(asks, answers, strict=True):
        verdict = judge(ask, answer, FaultLog())
        texts = [violation.text for violation in verdict.violations]
        if texts or verdict.outcome != "answered":
            kinds: list[Kind] = [violation.kind for violation in verdict.violations]
            report.violate(
                f"{ask.name}, at the end", verdict.outcome, *texts, kinds=kinds or ["outcome"]
            )


async def _check_stopped(server: Server, faults: Faults, report: Report) -> None:
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    while left := faults.stopped.intersection(processes_of_session(server.pid)):
        if time.monotonic() > deadline_s:
            text = f"processes that were stopped and are still there: {sorted(left)}"
            report.violate("stopped workers", text, server.log())
            return
        await asyncio.sleep(0.1)


async def _check_growth(server: Server, report: Report) -> None:
    before = report.before
    assert before is not None
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    while grown := grown_by(before, now := footprint(server.pid)):
        if time.monotonic() > deadline_s:
            growth = f"{asdict(before)} -> {asdict(now)}"
            report.violate("it has grown", *grown, growth, server.log())
            break
        await asyncio.sleep(0.1)
    report.after = now


def grown_by(before: Footprint, after: Footprint) -> list[str]:
    more_mib = _MORE_RSS_SHARE * before.rss_mib + _MORE_RSS_MIB
    return [
        name
        for name, was, now, more in (
            ("descriptors", before.descriptors, after.descriptors, _MORE_DESCRIPTORS),
            ("threads", before.threads, after.threads, _MORE_THREADS),
            ("rss_mib", before.rss_mib, after.rss_mib, more_mib),
        )
        if now > was + more
    ]
