"""What must be so when the traffic is over: all is free, nothing has grown, nothing is left."""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import asdict

from scripts.campaign.clients import Report
from scripts.campaign.exchange import PROMPT, exchange
from scripts.campaign.faults import Faults
from scripts.campaign.oracle import FaultLog, Kind, judge
from scripts.campaign.processes import Footprint, footprint, processes_of_session
from scripts.campaign.server import CampaignServer, Probe, is_idle
from scripts.campaign.traffic import Traffic

IDLE_WITHIN_S = 30.0
_GONE_WITHIN_S = 2.0
_SETTLES_WITHIN_S = 10.0
_ANSWERED_WITHIN_S = 60.0
PER_ZYGOTE = 5
"""Descriptors that the gateway holds for a zygote with a prefix, as long as that lives.

The pipe that tells it to end, two that tell of the process and its status, and two pidfds: one to
end it by, one to notice its death.
"""
_MORE_DESCRIPTORS = 2
# A pool of threads never shrinks, and may not have been at its full size before.
_MORE_THREADS = 8
# What arenas of glibc hold back differs by a few MiB from run to run.
_MORE_RSS_SHARE, _MORE_RSS_MIB = 0.05, 6.0
# A zygote has one for each living fork; which fork is whose differs.
_MORE_ZYGOTE_DESCRIPTORS = 4


def zygote_footprints(server: CampaignServer) -> list[Footprint]:
    """What each zygote holds now."""
    held = []
    for pid in server.zygotes():
        with suppress(OSError):
            held.append(footprint(pid))
    return held


async def check_rest(
    server: CampaignServer, probe: Probe, traffic: Traffic, faults: Faults, report: Report
) -> None:
    """Everything is free and serves, what was stopped is gone, and nothing has grown."""
    if not server.is_alive:
        report.violate("the gateway has ended", server.last_words(), kinds=["outcome"])
        return
    if await probe.until(is_idle, IDLE_WITHIN_S) is None:
        status = None
        with suppress(OSError):
            status = await probe.get()
        report.violate("not idle at the end", str(status), server.last_words())
    await _check_service(server, traffic, report)
    await probe.until(is_idle, IDLE_WITHIN_S)
    await _check_stopped(server, faults, report)
    await _check_growth(server, report)


def check_end(server: CampaignServer, report: Report) -> None:
    """It ends when it is told to, leaves nothing behind, and its log tells of no mistake."""
    if server.is_alive:
        report.exit_status, report.exit_s = server.terminate()
        if report.exit_status != 0:
            report.violate("SIGTERM", f"exit status {report.exit_status}", server.last_words())
        if left := server.left_after(_GONE_WITHIN_S):
            report.violate("SIGTERM", f"processes that are left: {left}", server.last_words())
    if mistakes := server.mistakes():
        report.violate("the log tells of mistakes", *mistakes[:5], server.log_around(mistakes[0]))


async def _check_service(server: CampaignServer, traffic: Traffic, report: Report) -> None:
    """As many requests as there are workers are answered right, all at the same time."""
    source = random.Random(f"{report.plan.seed} rest")
    asks = [traffic.short(source) for _ in range(int(report.plan.settings["WORKERS"]))]
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


async def _check_stopped(server: CampaignServer, faults: Faults, report: Report) -> None:
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    while left := faults.stopped.intersection(processes_of_session(server.pid)):
        if time.monotonic() > deadline_s:
            text = f"processes that were stopped and are still there: {sorted(left)}"
            report.violate("stopped workers", text, server.last_words())
            return
        await asyncio.sleep(0.1)


async def _check_growth(server: CampaignServer, report: Report) -> None:
    before, zygotes_before = report.before, report.zygotes_before
    if before is None:
        return
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    while True:
        report.after = footprint(server.pid)
        report.zygotes_after = zygote_footprints(server)
        more = max(0, len(report.zygotes_after) - len(zygotes_before))
        grown = grown_by(before, report.after, _MORE_DESCRIPTORS + more * PER_ZYGOTE)
        most = max((held.descriptors for held in zygotes_before), default=0)
        grown += [
            f"a zygote: {held.descriptors} descriptors, before at most {most}"
            for held in report.zygotes_after
            if held.descriptors > most + _MORE_ZYGOTE_DESCRIPTORS
        ]
        if not grown or time.monotonic() > deadline_s:
            break
        await asyncio.sleep(0.1)
    for what in grown:
        growth = f"{asdict(before)} -> {asdict(report.after)}, {more} more zygotes"
        report.violate("it has grown", what, growth, server.last_words())


def grown_by(before: Footprint, after: Footprint, more_descriptors: int) -> list[str]:
    """What the gateway holds more of than it may."""
    more_mib = _MORE_RSS_SHARE * before.rss_mib + _MORE_RSS_MIB
    return [
        name
        for name, was, now, more in (
            ("descriptors", before.descriptors, after.descriptors, more_descriptors),
            ("threads", before.threads, after.threads, _MORE_THREADS),
            ("rss_mib", before.rss_mib, after.rss_mib, more_mib),
        )
        if now > was + more
    ]
