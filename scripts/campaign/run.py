"""A campaign from the server's start to its end, and what must be so when its traffic is over."""

import asyncio
import random
import signal
import time
from contextlib import suppress

from scripts.campaign.asks import Traffic, learn
from scripts.campaign.clients import Clients, cancel, watch_ready
from scripts.campaign.exchange import PROMPT, Probe, exchange
from scripts.campaign.faults import Faults
from scripts.campaign.memory import LEAST_MINUTES, grown, sample
from scripts.campaign.oracle import FaultLog, judge
from scripts.campaign.report import Plan, Report
from scripts.processes import processes_of_session
from scripts.server import Server, ServerFailed, is_idle, served

_IDLE_WITHIN_S = 30.0
_GONE_WITHIN_S = 2.0
_SETTLES_WITHIN_S = 10.0
_ANSWERED_WITHIN_S = 60.0


async def run(plan: Plan) -> Report:
    """Run a campaign.

    Raises:
        ServerFailed: the server does not start, or does not answer before anything is done to it.
    """
    with served(**plan.settings) as server:
        report, probe = Report(plan), Probe(server.port)
        model = (await probe.get("/v1/models"))["data"][0]["id"]
        traffic = await learn(server.port, model, plan.limits, plan.seed)
        await probe.until(is_idle, _IDLE_WITHIN_S)
        faults = report.faults = Faults(server, plan.schedule, plan.seed)
        faults.log.max_queue = int(plan.settings["MAX_QUEUE"])
        await _disturb(server, traffic, report, faults)
        await _check_rest(server, probe, traffic, faults, report)
        probe.close()
        await asyncio.to_thread(_check_end, server, report)
        return report


async def _disturb(server: Server, traffic: Traffic, report: Report, faults: Faults) -> None:
    """Traffic and faults for the time of the plan, then until the last request has ended."""
    plan = report.plan
    clients = Clients(server, traffic, plan, report, faults, time.monotonic() + plan.seconds)
    beside = [
        asyncio.create_task(faults.run()),
        asyncio.create_task(watch_ready(server, report)),
        asyncio.create_task(sample(server, plan.sample_s, report.samples)),
    ]
    try:
        await clients.run()
    finally:
        for task in beside:
            await cancel(task)
    for missing in faults.missing:
        report.violate("no successor", missing, server.log())
    report.check_shares()
    if plan.seconds >= 60 * LEAST_MINUTES:
        for what in grown(report.samples, is_steady=not (faults.counts or plan.burst_s)):
            report.violate("it has grown", what)


async def _check_rest(
    server: Server, probe: Probe, traffic: Traffic, faults: Faults, report: Report
) -> None:
    """Everything is free and serves, and what was stopped is gone."""
    if not server.is_alive:
        report.violate("the gateway has ended", server.log())
        return
    status = await probe.until(is_idle, _IDLE_WITHIN_S)
    if status is None:
        with suppress(OSError):
            status = await probe.get()
        report.violate("not idle at the end", str(status), server.log())
    await _check_service(server, traffic, report, (status or {}).get("slots", 1))
    await probe.until(is_idle, _IDLE_WITHIN_S)
    await _check_stopped(server, faults, report)


async def _check_service(server: Server, traffic: Traffic, report: Report, n: int) -> None:
    """As many requests as there are slots are answered right, all at the same time."""
    source = random.Random(f"{report.plan.seed} rest")
    asks = [traffic.short(source) for _ in range(n)]
    answers = await asyncio.gather(
        *(exchange(server.port, ask, PROMPT, _ANSWERED_WITHIN_S) for ask in asks)
    )
    for ask, answer in zip(asks, answers, strict=True):
        verdict = judge(ask, answer, FaultLog())
        if verdict.violations or verdict.outcome != "answered":
            report.violate(f"{ask.name}, at the end", verdict.outcome, *verdict.violations)


async def _check_stopped(server: Server, faults: Faults, report: Report) -> None:
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    while left := faults.stopped.intersection(processes_of_session(server.pid)):
        if time.monotonic() > deadline_s:
            text = f"processes that were stopped and are still there: {sorted(left)}"
            report.violate("stopped workers", text, server.log())
            return
        await asyncio.sleep(0.1)


def _check_end(server: Server, report: Report) -> None:
    """It ends when it must, leaves nothing behind, and its log tells of no mistake."""
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
