"""One campaign from the server's start to its end."""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import asdict

from scripts.campaign.clients import Clients, Plan, Report
from scripts.campaign.exchange import PROMPT, exchange
from scripts.campaign.faults import Faults
from scripts.campaign.processes import Footprint, footprint
from scripts.campaign.release import measure_release
from scripts.campaign.server import (
    CampaignError,
    CampaignServer,
    Probe,
    campaign_server,
    is_idle,
)
from scripts.campaign.traffic import Traffic, learn

_IDLE_WITHIN_S = 30.0
_GONE_WITHIN_S = 2.0
_PER_TEMPLATE = 8
_MORE_DESCRIPTORS, _MORE_THREADS, _MORE_RSS, _MORE_RSS_MIB = 4, 8, 0.15, 24.0


async def run(plan: Plan) -> Report:
    """Run a campaign.

    Raises:
        CampaignError: the server does not start, or does not answer before anything is done to it.
    """
    with campaign_server(**plan.settings) as server:
        report = Report(plan)
        probe = Probe(server.port)
        if await probe.until(is_idle, 60.0) is None:
            raise CampaignError(f"not all workers come up:\n{server.last_words()}")
        model = (await probe.get("/v1/models"))["data"][0]["id"]
        traffic = await learn(server.port, model, plan.limits, plan.seed)
        await _warm_up(server, traffic, plan)
        if plan.n_releases:
            report.release = await measure_release(server.port, model, plan.n_releases)
        await probe.until(is_idle, _IDLE_WITHIN_S)
        report.before = footprint(server.pid)
        n_templates = await _n_templates(server, probe)
        await _disturb(server, traffic, plan, report)
        await _check_rest(server, probe, report, n_templates)
        probe.close()
        await asyncio.to_thread(_check_end, server, report)
        return report


async def _warm_up(server: CampaignServer, traffic: Traffic, plan: Plan) -> None:
    """Have the gateway grow to the size that its traffic needs."""
    source = random.Random(f"{plan.seed} warm-up")
    asks = [traffic.short(source) for _ in range(min(plan.burst, 200))]
    await asyncio.gather(*(exchange(server.port, ask, PROMPT, 60.0) for ask in asks))


async def _disturb(server: CampaignServer, traffic: Traffic, plan: Plan, report: Report) -> None:
    """Traffic and faults for the time of the plan, then until the last request has ended."""
    faults = Faults(server, plan.schedule, random.Random(f"{plan.seed} faults"))
    ends_s = time.monotonic() + plan.seconds
    clients = Clients(server, traffic, plan, report, faults, ends_s)
    harm = asyncio.create_task(faults.run())
    try:
        await clients.run()
    finally:
        harm.cancel()
        with suppress(asyncio.CancelledError):
            await harm
        report.faults = faults.counts
        report.successor_ms = faults.successor_ms
        report.after_template_ms = faults.after_template_ms
        for missing in faults.missing:
            report.violate("no successor", missing, server.last_words())


async def _n_templates(server: CampaignServer, probe: Probe) -> int:
    status = await probe.get()
    return len(server.templates([worker["pid"] for worker in status["workers"] if worker["pid"]]))


async def _check_rest(
    server: CampaignServer, probe: Probe, report: Report, n_templates: int
) -> None:
    """Everything is free, and the gateway holds what it held before."""
    if not server.is_alive:
        report.violate("the gateway has ended", server.last_words())
        return
    status = await probe.until(is_idle, _IDLE_WITHIN_S)
    if status is None:
        with suppress(OSError):
            status = await probe.get()
        report.violate("not idle at the end", str(status), server.last_words())
    before, deadline_s = report.before, time.monotonic() + 10.0
    assert before is not None
    while True:
        report.after = after = footprint(server.pid)
        # A template with a learned prefix lives as long as its workers, and has pipes of its own.
        more = max(0, await _n_templates(server, probe) - n_templates)
        grown = _grown(before, after, _MORE_DESCRIPTORS + more * _PER_TEMPLATE)
        if not grown or time.monotonic() > deadline_s:
            break
        await asyncio.sleep(0.1)
    for what in grown:
        growth = f"{asdict(before)} -> {asdict(after)}"
        report.violate("the gateway has grown", what, growth, server.last_words())


def _grown(before: Footprint, after: Footprint, more_descriptors: int) -> list[str]:
    return [
        name
        for name, was, now, more in (
            ("descriptors", before.descriptors, after.descriptors, more_descriptors),
            ("threads", before.threads, after.threads, _MORE_THREADS),
            ("rss_mib", before.rss_mib, after.rss_mib,
             max(_MORE_RSS * before.rss_mib, _MORE_RSS_MIB)),
        )
        if now > was + more
    ]  # fmt: skip


def _check_end(server: CampaignServer, report: Report) -> None:
    """It ends when it is told to, and leaves nothing behind."""
    if not server.is_alive:
        return
    report.exit_status, report.exit_s = server.terminate()
    if report.exit_status != 0:
        report.violate("SIGTERM", f"exit status {report.exit_status}", server.last_words())
    if left := server.left_after(_GONE_WITHIN_S):
        report.violate("SIGTERM", f"processes that are left: {left}", server.last_words())
