"""One load test: its steps, what came of its requests, and what must be so at its end."""

import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any

from scripts.load.client import Client
from scripts.load.metrics import Summary, Window, summarize
from scripts.load.options import Options
from scripts.load.outcome import Outcome
from scripts.load.report import Check

_FREE_WITHIN_S = 10.0


@dataclass(slots=True)
class Step:
    """A part of a test with the same number of users.

    Attributes:
        users: how many; 0 for an open loop.
        start_s: when it began; seconds of `time.perf_counter`, as all times here.
        end_s: when it ended; None while it runs.
    """

    users: int
    start_s: float
    end_s: float | None = None


class Run:
    """Collects what the users see.

    Attributes:
        options: what was to be done.
        url: the server.
        model: what requests name.
        outcomes: one for each request that was sent.
    """

    def __init__(self, options: Options, url: str, model: str) -> None:
        """Begin without a step."""
        self.options = options
        self.url = url
        self.model = model
        self.outcomes: list[Outcome] = []
        self._steps: list[Step] = []
        self._users = itertools.count()

    def next_user(self) -> int:
        """A number that no other user of this run has."""
        return next(self._users)

    def begin_step(self, users: int, now_s: float) -> None:
        """End the step before, and begin one."""
        self.end(now_s)
        self._steps.append(Step(users, now_s))

    def end(self, now_s: float) -> None:
        """End the present step."""
        if self._steps and self._steps[-1].end_s is None:
            self._steps[-1].end_s = now_s

    def summaries(self) -> list[Summary]:
        """The figures of each step, without its warm-up."""
        found = []
        for step in self._steps:
            end_s = step.start_s if step.end_s is None else step.end_s
            window = Window(min(step.start_s + self.options.warmup, end_s), end_s)
            users = 0 if self.options.rate else step.users
            found.append(summarize(self.outcomes, window, self.options.objectives, users))
        return found

    def checks(self, freed_after_s: float | None) -> list[Check]:
        """What must be so after the scenario.

        Args:
            freed_after_s: what `free_workers` has said.
        """
        if self.options.scenario not in ("disconnect", "burst"):
            return []
        kinds = [outcome.kind for outcome in self.outcomes]
        checks = []
        if self.options.scenario == "disconnect":
            n = kinds.count("disconnected")
            detail = f"{n} closed, {kinds.count('completed')} answered in between"
            passed = n > 0 and "completed" in kinds and "failed" not in kinds
            checks.append(Check("a closed connection harms no other request", passed, detail))
        else:
            refused = [outcome for outcome in self.outcomes if outcome.kind == "refused"]
            silent = sum(not outcome.retry_after for outcome in refused)
            detail = f"{len(refused)} of {len(kinds)} requests got a 429, {silent} of them without"
            if not refused:
                detail = f"none of {len(kinds)} requests got a 429; raise --burst-size"
            passed = bool(refused) and not silent
            checks.append(Check("a 429 carries Retry-After", passed, detail))
        if freed_after_s is not None:
            detail = f"after {freed_after_s:.2f} s"
            if freed_after_s > _FREE_WITHIN_S:
                detail = f"not within {_FREE_WITHIN_S:.0f} s"
            checks.append(Check("all workers are free", freed_after_s <= _FREE_WITHIN_S, detail))
        return checks

    def settings(self) -> dict[str, Any]:
        """What the report says of how it came about; no secrets."""
        settings = asdict(self.options)
        del settings["api_key"]
        return {**settings, "url": self.url, "model": self.model}


def free_workers(url: str, api_key: str = "") -> float | None:
    """Wait until no request runs or waits at the server.

    Returns:
        Seconds until then, infinity if it takes too long; None if the server does not say, which
        is so for servers without a ``/ready`` that counts requests.
    """
    client = Client(url, api_key, _FREE_WITHIN_S)
    started_s = time.perf_counter()
    try:
        while True:
            ready = client.get("/ready")
            if not isinstance(ready, dict) or not {"running", "waiting"} <= ready.keys():
                return None
            elapsed_s = time.perf_counter() - started_s
            if ready["running"] == 0 and ready["waiting"] == 0:
                return elapsed_s
            if elapsed_s > _FREE_WITHIN_S:
                return float("inf")
            time.sleep(0.01)
    except OSError:
        return float("inf")
    finally:
        client.close()
