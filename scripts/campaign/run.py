"""One campaign from the server's start to its end."""

import asyncio
import random
import time
from contextlib import suppress

from scripts.campaign.clients import Clients, Plan, Report
from scripts.campaign.exchange import PROMPT, exchange
from scripts.campaign.faults import Faults
from scripts.campaign.processes import footprint
from scripts.campaign.release import measure_release
from scripts.campaign.rest import IDLE_WITHIN_S, check_end, check_rest, zygote_footprints
from scripts.campaign.server import (
    CampaignError,
    CampaignServer,
    Probe,
    campaign_server,
    is_idle,
)
from scripts.campaign.traffic import Traffic, learn

# Bursts between two looks at the gateway's memory, and the most such rounds. It is still when it
# has grown by less than this in one.
_WARM_UP_BURSTS, _MOST_WARM_UPS, _STILL = 4, 6, 1.005


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
            has_chunks = plan.settings.get("MODEL_TYPE") != "echo"
            report.release = await measure_release(server.port, model, plan.n_releases, has_chunks)
        await probe.until(is_idle, IDLE_WITHIN_S)
        report.before = footprint(server.pid)
        report.zygotes_before = zygote_footprints(server)
        faults = Faults(server, plan.schedule, plan.seed)
        await disturb(server, traffic, faults, report)
        if short := report.parts.violations():
            report.violate("hardly anything was answered", *short, kinds=["outcome"])
        await check_rest(server, probe, traffic, faults, report)
        probe.close()
        await asyncio.to_thread(check_end, server, report)
        return report


async def _warm_up(server: CampaignServer, traffic: Traffic, plan: Plan) -> None:
    """Have the gateway grow to the size that its traffic needs, which takes several bursts."""
    source = random.Random(f"{plan.seed} warm-up")
    for _ in range(_MOST_WARM_UPS):
        before = footprint(server.pid).rss_mib
        for _ in range(_WARM_UP_BURSTS):
            asks = [traffic.short(source) for _ in range(min(plan.burst, 200))]
            await asyncio.gather(*(exchange(server.port, ask, PROMPT, 60.0) for ask in asks))
        if footprint(server.pid).rss_mib < _STILL * before:
            return


async def disturb(server: CampaignServer, traffic: Traffic, faults: Faults, report: Report) -> None:
    """Traffic and faults for the time of the plan, then until the last request has ended."""
    plan = report.plan
    faults.log.max_queue = int(plan.settings["MAX_QUEUE"])
    clients = Clients(server, traffic, plan, report, faults, time.monotonic() + plan.seconds)
    beside = [
        asyncio.create_task(faults.run()),
        asyncio.create_task(report.readiness.watch(server.port)),
    ]
    try:
        await clients.run()
    finally:
        for task in beside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        report.faults = faults.counts
        report.successor_ms = faults.successor_ms
        report.after_zygote_ms = faults.after_zygote_ms
        for missing in faults.missing:
            report.violate("no successor", missing, server.last_words())
        for failure in report.readiness.failures:
            report.violate("/ready", failure, kinds=["outcome"])
