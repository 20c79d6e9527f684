"""What a load test is told to do, checked before anything is sent."""

import math
import textwrap
from dataclasses import asdict, dataclass, fields
from typing import Any

from scripts.load.metrics import Objectives

SCENARIOS = ("chat", "completions", "multi-turn", "disconnect", "burst")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one test; `HELP` says what each means.

    Attributes:
        scenario: one of `SCENARIOS`.
        rate: requests in a second of an open loop; 0 is a closed loop.
        burstiness: shape of the open loop's intervals.
        warmup: seconds at the start, and at the start of each step, that are not measured.
        seed: of the prompts and the arrivals, and sent with each request.
        max_tokens: of each answer.
        prompt_tokens: words in each message, which is about tokens.
        shared_prefix: words that all prompts have in front.
        turns: of a multi-turn chat.
        sweep: numbers of users, one step each; empty for none.
        step_time: seconds of each step.
        disconnect_after: chunks with text after which the connection is closed.
        burst_size: requests at once.
        objectives: what counts as good.
        model: what requests name; empty takes the first that the server lists.
        api_key: sent as a bearer token.
        ignore_eos: whether requests ask for answers of full length.
        request_timeout: seconds that the server may keep silent.
        report: the path of the report's files, without suffix; empty writes none.
    """

    scenario: str = "chat"
    rate: float = 0.0
    burstiness: float = 1.0
    warmup: float = 0.0
    seed: int = 0
    max_tokens: int = 64
    prompt_tokens: int = 64
    shared_prefix: int = 0
    turns: int = 4
    sweep: str = ""
    step_time: float = 20.0
    disconnect_after: int = 4
    burst_size: int = 200
    slo: str = ""
    model: str = ""
    api_key: str = ""
    ignore_eos: bool = True
    request_timeout: float = 300.0
    report: str = "build/load-report"

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: one is not allowed; the message names it and says what is.
        """
        if self.scenario not in SCENARIOS:
            raise ValueError(f"--scenario {self.scenario}: it must be one of {_listed(SCENARIOS)}")
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low):
                raise ValueError(f"--{name.replace('_', '-')} {value}: it must be {low} or more")
        for name in ("burstiness", "step_time", "request_timeout"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"--{name.replace('_', '-')} {value}: it must be above 0")
        if self.rate and self.sweep:
            raise ValueError("--rate and --sweep exclude each other: a sweep changes the users")
        if self.rate and self.scenario in ("multi-turn", "burst"):
            raise ValueError(f"--rate has no meaning with --scenario {self.scenario}")
        try:
            Objectives.parse(self.slo)
        except ValueError as error:
            raise ValueError(f"--slo {error}") from None
        if self.sweep not in ("", "auto"):
            self.steps(1)

    @property
    def objectives(self) -> Objectives:
        """What counts as good."""
        return Objectives.parse(self.slo)

    def steps(self, workers: int) -> list[int]:
        """The numbers of users of a sweep; empty without one.

        Args:
            workers: how many requests the server runs at once; ``auto`` goes to twice that.

        Raises:
            ValueError: the list is not one.
        """
        if not self.sweep:
            return []
        if self.sweep == "auto":
            return sorted({max(1, round(2 * workers * part / 8)) for part in range(1, 9)})
        try:
            users = [int(part) for part in self.sweep.split(",")]
        except ValueError:
            users = [0]
        if min(users) < 1:
            raise ValueError(f"--sweep {self.sweep}: write auto, or numbers of users as in 1,2,4,8")
        return users

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Options":
        """Take the options of a parsed command line, or of locust's web page, which gives text.

        Raises:
            ValueError: one is not allowed; the message names it and says what is.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name)
            kind: Any = type(field.default)
            if value is None:
                continue
            try:
                is_text = isinstance(value, str) and kind is bool
                given[field.name] = value.lower() in ("true", "1", "on") if is_text else kind(value)
            except (TypeError, ValueError):
                name = field.name.replace("_", "-")
                raise ValueError(f"--{name} {value!r}: it must be a number") from None
        return cls(**given)


HELP = {
    "scenario": f"one of {', '.join(SCENARIOS)}",
    "rate": "open loop: requests in a second, whatever the server does; 0 is a closed loop, where"
    " each user sends the next request when the last is answered",
    "burstiness": "open loop: 1 is a Poisson process, less comes in bursts, more is more even",
    "warmup": "seconds at the start (of each step) that are not measured",
    "seed": "the same seed sends the same requests",
    "max_tokens": "of each answer",
    "prompt_tokens": "words in each prompt or message, about as many tokens",
    "shared_prefix": "words that all prompts have in front; 0: no prompt has a prefix of another,"
    " so that a prefix cache does not flatter the figures",
    "turns": "multi-turn: questions in each chat",
    "sweep": "numbers of users, one step each, as in 1,2,4,8; auto: up to twice the workers;"
    " excludes -u, -r and -t",
    "step_time": "sweep: seconds of each step",
    "disconnect_after": "disconnect: chunks with text after which the connection is closed",
    "burst_size": "burst: requests at once, more than workers and queue hold",
    "slo": "objectives in milliseconds, as in ttft:500,tpot:100,e2el:5000; goodput counts the"
    " requests that keep to all",
    "model": "what requests name (default: the first that the server lists)",
    "api_key": "sent as a bearer token",
    "ignore_eos": "ask for answers of full length; servers that know no ignore_eos ignore it, and"
    " the report says how many answers were shorter",
    "request_timeout": "seconds that the server may keep silent before a request has failed",
    "report": "where the report goes: PATH.json and PATH.csv; empty writes none",
}
"""What each option means."""

_LEAST = {
    "rate": 0,
    "warmup": 0,
    "max_tokens": 1,
    "prompt_tokens": 1,
    "shared_prefix": 0,
    "turns": 1,
    "disconnect_after": 1,
    "burst_size": 1,
}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def usage() -> str:
    """What ``scripts/load-test --help`` prints; locust's own help leaves these options out."""
    lines = [
        "usage: ./scripts/load-test [--web] [OPTION VALUE]...",
        "",
        "Puts load on a server with an OpenAI-style API, and reports what its users would see.",
        "--web runs it on locust's own page. Of locust's options (see `locust --help`) the most",
        "useful are --host URL (default: http://127.0.0.1:8000), -u USERS, -t TIME (default: 60s).",
        "",
    ]
    for name, default in asdict(Options()).items():
        option = "--no-ignore-eos" if name == "ignore_eos" else f"--{name.replace('_', '-')}"
        text = HELP[name]
        if name == "ignore_eos":
            text = f"do not {text}"
        elif default != "":
            text += f" (default: {default})"
        lines += textwrap.wrap(
            f"{option:<21} {text}", 98, initial_indent="  ", subsequent_indent=" " * 24
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(usage())
