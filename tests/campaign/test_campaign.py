"""The campaign's short form: the same faults and the same oracle as ``scripts/chaos``."""

import asyncio
import json

from scripts.campaign.asks import Limits
from scripts.campaign.faults import Schedule
from scripts.campaign.report import Plan
from scripts.campaign.run import run

SETTINGS = {
    "MODEL_TYPE": "echo",
    "ECHO_DELAY_MS": "3",
    "WORKERS": "3",
    "PARKED": "1",
    "MAX_QUEUE": "8",
    "REQUEST_TIMEOUT": "30",
    "QUEUE_TIMEOUT": "15",
    "DRAIN_TIMEOUT": "5",
}


def test_nothing_is_lost_wrong_or_late_while_workers_die() -> None:
    plan = Plan(
        seconds=7.0,
        seed=5,
        settings=SETTINGS,
        limits=Limits(short=8, long=40, words=12, request_timeout_s=30.0, queue_timeout_s=15.0),
        schedule=Schedule(kill_s=0.7, stop_s=0.0, zygote_s=3.0, own_share=0.2),
        clients=8,
        burst_s=2.5,
        burst=60,
        sample_s=1.0,
    )
    found = asyncio.run(run(plan))
    assert found.violations == [], found.text()
    # It has done what it is for.
    assert found.outcomes["answered"] >= 10, found.outcomes
    assert found.outcomes["left"] >= 5, found.outcomes
    assert found.faults is not None
    counts = found.faults.counts
    assert counts["SIGKILL"] >= 2 and counts["zygote SIGKILL"] >= 1, counts
    assert found.exit_s > 0
    assert len(found.samples) >= 3 and all(each.workers_mib > 0 for each in found.samples)
    json.dumps(found.as_json())
