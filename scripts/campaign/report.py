"""What a campaign has found: figures for people, JSON for machines."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.campaign.asks import Limits
from scripts.campaign.faults import Faults, Schedule
from scripts.campaign.memory import GROWING, Sample, growth
from scripts.campaign.oracle import GRACE_S, Verdict
from scripts.client import Answer
from scripts.figures import Figure, percentile, table

PART_S = 15.0
"""As long as from burst to burst, so that each part of a campaign has one."""
LEAST_SHARE = 0.1
"""Of the requests that could be answered, those that must be, in every part.

With bursts that fill the queue a real model on two cores answers a fifth of them and more, the echo
engine two thirds; a pool that has lost its workers answers none.
"""
_SLOW_S = 1.0  # of /ready, which is asked all the time: a gateway that is alive answers soon
_SHOWN = 20


@dataclass(slots=True)
class Plan:
    """What a campaign does."""

    seconds: float  #: of traffic
    seed: int  #: of all chance
    settings: dict[str, str]  #: of the server
    limits: Limits
    schedule: Schedule
    clients: int = 12  #: that ask at the same time, besides bursts
    burst_s: float = PART_S  #: between bursts; 0 for none
    burst: int = 200  #: requests in one
    reload: bool = False  #: whether the server loads its model again in the middle
    sample_s: float = 5.0  #: between samples of memory


@dataclass(slots=True)
class Report:
    """What a campaign has found."""

    plan: Plan
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, ...]] = field(default_factory=list)  #: what, and its evidence
    latest_s: float = float("-inf")  #: the longest that a request took beyond its deadline
    #: requests by part of the time, of clients that ask all the time, stay, and set no bounds
    asked: Counter[int] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    ready_s: list[float] = field(default_factory=list)  #: what ``/ready`` took
    samples: list[Sample] = field(default_factory=list)
    faults: Faults | None = None
    exit_s: float = 0.0  #: how long it took to end

    def violate(self, what: str, *evidence: str) -> None:
        self.violations.append((what, *evidence))

    def take(self, what: str, verdict: Verdict, answer: Answer, note: str) -> None:
        self.outcomes[verdict.outcome] += 1
        if verdict.violations:
            self.violate(what, *verdict.violations, note, f"at {answer.ended_s:.3f} s")

    def note(self, at_s: float, is_answered: bool) -> None:
        """Count a request that ended ``at_s`` seconds after the traffic began."""
        # A rest that is shorter than a part belongs to the last one.
        part = min(self._n_parts - 1, int(at_s // PART_S))
        self.asked[part] += 1
        self.answered[part] += is_answered

    @property
    def _n_parts(self) -> int:
        return max(1, int(self.plan.seconds // PART_S))

    @property
    def shares(self) -> list[float]:
        """The share of the answered, by part; 0 where nothing has ended."""
        return [self.answered[n] / max(1, self.asked[n]) for n in range(self._n_parts)]

    def check_shares(self) -> None:
        """A server that refuses everything would otherwise do nothing wrong."""
        for part, share in enumerate(self.shares):
            if share < LEAST_SHARE:
                text = f"from {part * PART_S:g} s on only {self.answered[part]} of"
                text += f" {self.asked[part]}, and {LEAST_SHARE:.0%} must be"
                self.violate("hardly anything was answered", text)

    def figures(self) -> list[Figure]:
        found: list[Figure] = []

        def add(name: str, value: float, unit: str = "", digits: int = 0, goal: str = "") -> None:
            found.append(Figure("campaign", name, (value,), unit, digits, goal))

        faults = self.faults
        add("requests", sum(self.outcomes.values()))
        add("faults", sum(faults.counts.values()) if faults else 0)
        add("violations", len(self.violations), goal="≤ 0")
        add("the latest answer, after its deadline", self.latest_s, "s", 2, f"≤ {GRACE_S:g}")
        name = "answered of those that stay, in the worst quarter of a minute"
        add(name, 100 * min(self.shares), "%", 0, f"≥ {100 * LEAST_SHARE:g}")
        slow = sum(took_s > _SLOW_S for took_s in self.ready_s)
        add(f"`/ready` slower than {_SLOW_S:g} s", slow, goal="≤ 0")
        if faults and faults.successor_ms:
            name, times = "worker dead → successor ready, p", faults.successor_ms
            add(f"{name}50", percentile(times, 50), "ms", 1, "≤ 50")
            add(f"{name}99", percentile(times, 99), "ms", 1, "≤ 200")
        if faults and faults.after_zygote_ms:
            name = "worker dead → successor ready, no zygote meanwhile, p99"
            add(name, percentile(faults.after_zygote_ms, 99), "ms", 1)
        for name, label in GROWING.items():
            was, now = growth(self.samples, name)
            add(f"{label}, {now:.1f} MiB at the end: growth", 100 * (now / was - 1), "%", 2)
        return found

    def text(self) -> str:
        lines = [table(self.figures())]
        counts = self.faults.counts if self.faults else Counter()
        for head, some in (("outcome | requests", self.outcomes), ("fault | times", counts)):
            lines += ["", f"| {head} |", "|---|---|"]
            lines += [f"| {name} | {n} |" for name, n in sorted(some.items())]
        lines += ["", f"seed {self.plan.seed}"]
        for what, *evidence in self.violations[:_SHOWN]:
            lines += ["", f"VIOLATION: {what}", *evidence]
        if len(self.violations) > _SHOWN:
            lines.append(f"... and {len(self.violations) - _SHOWN} more")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "plan": asdict(self.plan),
            "figures": [figure.as_json() for figure in self.figures()],
            "outcomes": dict(self.outcomes),
            "faults": dict(self.faults.counts) if self.faults else {},
            "shares": self.shares,
            "violations": self.violations,
            "exit_s": self.exit_s,
            "samples": [asdict(each) for each in self.samples],
        }
