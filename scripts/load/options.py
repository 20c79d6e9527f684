"""The options of a load test, checked before anything is sent. Needs no installation."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.transcript import Outcome

SCENARIOS = ("chat", "completions", "multi-turn")


def _option(default: Any, text: str, least: float = -math.inf) -> Any:
    return field(default=default, metadata={"help": text, "least": least})


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one test."""

    scenario: str = _option("chat", "what is sent")
    rate: float = _option(
        0.0,
        "open loop: requests in a second, whatever the server does; 0 is a closed loop, where each"
        " user sends the next request when the last is answered",
        0,
    )
    burstiness: float = _option(
        1.0, "open loop: 1 is a Poisson process, less comes in bursts, more is more even", 0.01
    )
    warmup: float = _option(0.0, "seconds at the start (of each step) that are not measured", 0)
    seed: int = _option(0, "the same seed sends the same requests")
    max_tokens: int = _option(64, "of each answer", 1)
    prompt_tokens: int = _option(64, "words in each prompt or message, about as many tokens", 1)
    shared_prefix: int = _option(
        0,
        "words that all prompts have in front; with 0 no prompt has a prefix of another, so that a"
        " prefix cache does not flatter the figures",
        0,
    )
    turns: int = _option(4, "multi-turn: questions in each chat", 1)
    sweep: str = _option(
        "",
        "numbers of users, one step each, as in 1,2,4,8; auto: up to twice what the server runs at"
        " once; excludes -u, -r and -t",
    )
    step_time: float = _option(20.0, "sweep: seconds of each step", 0.1)
    slo: str = _option(
        "",
        "objectives in milliseconds, as in ttft:500,tpot:100,e2el:5000; requests that keep to all"
        " have a row of their own, NAME_good",
    )
    model: str = _option("", "what requests name; by default the first that the server lists")
    api_key: str = _option("", "sent as a bearer token")
    ignore_eos: bool = _option(True, "do not ask for answers of full length")
    request_timeout: float = _option(
        300.0, "seconds that the server may keep silent before a request has failed", 0.1
    )

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: the message names the options.
        """
        if self.rate and self.sweep:
            raise ValueError("--rate and --sweep exclude each other: a sweep changes the users")
        if self.rate and self.scenario == "multi-turn":
            raise ValueError("--rate has no meaning with --scenario multi-turn")
        self.steps(1)
        self.limits_s()

    def steps(self, n_slots: int) -> list[int]:
        """The numbers of users of a sweep; empty without one.

        Args:
            n_slots: how many requests the server runs at once; ``auto`` goes to twice that.

        Raises:
            ValueError: the list is not one.
        """
        if not self.sweep:
            return []
        if self.sweep == "auto":
            return sorted({max(1, round(2 * n_slots * part / 8)) for part in range(1, 9)})
        try:
            users = [int(part) for part in self.sweep.split(",")]
        except ValueError:
            users = [0]
        if min(users) < 1:
            raise ValueError(f"--sweep {self.sweep}: write auto, or numbers of users as in 1,2,4,8")
        return users

    def limits_s(self) -> dict[str, float]:
        """The objectives: seconds by latency.

        Raises:
            ValueError: the text is not of that form.
        """
        limits: dict[str, float] = {}
        for part in filter(None, self.slo.split(",")):
            name, _, value = part.strip().partition(":")
            try:
                limits[name] = float(value) / 1e3
            except ValueError:
                limits[name] = math.nan
            if name not in ("ttft", "tpot", "e2el") or not limits[name] > 0:
                raise ValueError(f"--slo {part!r}: write ttft, tpot or e2el, a colon, milliseconds")
        return limits

    @classmethod
    def read(cls, parsed: Any) -> "Options":
        """Take what a parser of the command line has read."""
        return cls(**{each.name: getattr(parsed, each.name) for each in fields(cls)})


def is_good(outcome: "Outcome", limits_s: Mapping[str, float]) -> bool:
    """Whether a complete request keeps to every limit.

    One without text has no first token to wait for, and so fails a limit on that; one of a single
    token has no time per further token, and so keeps to any.
    """
    ttft_s = math.inf if outcome.ttft_s is None else outcome.ttft_s
    found_s = {"ttft": ttft_s, "tpot": outcome.tpot_s or 0.0, "e2el": outcome.e2el_s}
    return all(found_s[name] <= limit_s for name, limit_s in limits_s.items())


def _number(kind: Any, least: float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            bound = f" of {least:g} or more" if math.isfinite(least) else ""
            raise argparse.ArgumentTypeError(f"{text!r}: it must be a number{bound}")
        return value

    return read


def add_to(parser: Any, secret: dict[str, Any]) -> None:
    """Add the options to a parser; ``secret`` is for what it must not show."""
    for each in fields(Options):
        name = each.name.replace("_", "-")
        more: dict[str, Any] = {"default": each.default, "help": each.metadata["help"]}
        if isinstance(each.default, bool):
            parser.add_argument(f"--no-{name}", dest=each.name, action="store_false", **more)
            continue
        if name == "scenario":
            more["choices"] = SCENARIOS
        elif isinstance(each.default, str):
            more["metavar"] = "TEXT"
        else:
            more |= {"metavar": "N", "type": _number(type(each.default), each.metadata["least"])}
        parser.add_argument(f"--{name}", **more, **(secret if name == "api-key" else {}))


def usage() -> str:
    """What ``scripts/load-test --help`` prints; locust's own help leaves these options out."""
    parser = argparse.ArgumentParser(
        prog="load-test",
        usage="./scripts/load-test [--web] [OPTION VALUE]...",
        description="Puts load on a server with an OpenAI-style API, and reports what its users"
        " would see. --web runs it on locust's own page, on this machine only. Of locust's options"
        " (see `locust --help`) the most useful are --host URL (default: http://127.0.0.1:8000),"
        " -u USERS, -t TIME (default: 60s), --csv PREFIX, --json-file PREFIX, --html FILE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_to(parser, {})
    return parser.format_help()


if __name__ == "__main__":
    print(usage())
