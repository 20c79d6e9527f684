"""What a load test is told to do, checked before anything is sent. Needs no installation."""

import math
import textwrap
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.transcript import Outcome

SCENARIOS = ("chat", "completions", "multi-turn", "disconnect", "burst")


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a good request keeps to, in milliseconds; None is no limit."""

    ttft: float | None = None  #: to the first text
    tpot: float | None = None  #: for each token after the first
    e2el: float | None = None  #: to the end

    @classmethod
    def parse(cls, text: str) -> "Objectives":
        """Read e.g. ``ttft:500,tpot:100,e2el:5000``.

        Raises:
            ValueError: the text is not of that form; the message says what is wrong.
        """
        names, limits = [each.name for each in fields(cls)], dict[str, float]()
        for part in filter(None, text.split(",")):
            name, _, value = part.strip().partition(":")
            if name not in names or name in limits:
                raise ValueError(f"{part!r}: write each of {', '.join(names)} at most once")
            try:
                limits[name] = float(value)
            except ValueError:
                limits[name] = math.nan
            if not limits[name] > 0:
                raise ValueError(f"{part!r}: a limit is a number of milliseconds above 0")
        return cls(**limits)

    def are_met(self, outcome: "Outcome") -> bool:
        """Whether a complete request keeps to every limit.

        One without text has no first token to wait for, and so fails a limit on that; one of a
        single token has no time per further token, and so keeps to any.
        """
        ttft_s, tpot_s = outcome.ttft_s, outcome.tpot_s
        return (
            outcome.kind == "completed"
            and (self.ttft is None or (ttft_s is not None and ttft_s * 1e3 <= self.ttft))
            and (self.tpot is None or tpot_s is None or tpot_s * 1e3 <= self.tpot)
            and (self.e2el is None or outcome.e2el_s * 1e3 <= self.e2el)
        )


def _option(default: Any, text: str, least: float | None = None) -> Any:
    """A field with its help; a number must be ``least`` or more, or above 0 if that is NaN."""
    return field(default=default, metadata={"help": text, "least": least})


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one test."""

    scenario: str = _option("chat", f"one of {', '.join(SCENARIOS)}")
    rate: float = _option(
        0.0,
        "open loop: requests in a second, whatever the server does; 0 is a closed loop, where each"
        " user sends the next request when the last is answered",
        0,
    )
    burstiness: float = _option(
        1.0,
        "open loop: 1 is a Poisson process, less comes in bursts, more is more even",
        math.nan,
    )
    warmup: float = _option(0.0, "seconds at the start (of each step) that are not measured", 0)
    seed: int = _option(0, "the same seed sends the same requests")
    max_tokens: int = _option(64, "of each answer", 1)
    prompt_tokens: int = _option(64, "words in each prompt or message, about as many tokens", 1)
    shared_prefix: int = _option(
        0,
        "words that all prompts have in front; 0: no prompt has a prefix of another, so that a"
        " prefix cache does not flatter the figures",
        0,
    )
    turns: int = _option(4, "multi-turn: questions in each chat", 1)
    sweep: str = _option(
        "",
        "numbers of users, one step each, as in 1,2,4,8; auto: up to twice the workers; excludes"
        " -u, -r and -t",
    )
    step_time: float = _option(20.0, "sweep: seconds of each step", math.nan)
    disconnect_after: int = _option(
        4, "disconnect: pieces of the answer after which the connection is closed", 1
    )
    burst_size: int = _option(200, "burst: requests at once, more than workers and queue hold", 1)
    slo: str = _option(
        "",
        "objectives in milliseconds, as in ttft:500,tpot:100,e2el:5000; goodput counts the"
        " requests that keep to all",
    )
    model: str = _option("", "what requests name (default: the first that the server lists)")
    api_key: str = _option("", "sent as a bearer token")
    ignore_eos: bool = _option(
        True,
        "ask for answers of full length; servers that know no ignore_eos ignore it, and the report"
        " says how many answers were shorter",
    )
    request_timeout: float = _option(
        300.0, "seconds that the server may keep silent before a request has failed", math.nan
    )
    report: str = _option(
        "build/load-report", "where the report goes: PATH.json and PATH.csv; empty writes none"
    )

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: one is not allowed; the message names it and says what is.
        """
        if self.scenario not in SCENARIOS:
            raise ValueError(
                f"--scenario {self.scenario}: it must be one of {', '.join(SCENARIOS)}"
            )
        for each in fields(self):
            value, least = getattr(self, each.name), each.metadata["least"]
            if least is None:
                continue
            if not math.isfinite(value) or not (value > 0 if math.isnan(least) else value >= least):
                what = "above 0" if math.isnan(least) else f"{least} or more"
                raise ValueError(f"{_name(each)} {value}: it must be {what}")
        if self.rate and self.sweep:
            raise ValueError("--rate and --sweep exclude each other: a sweep changes the users")
        if self.rate and self.scenario in ("multi-turn", "burst"):
            raise ValueError(f"--rate has no meaning with --scenario {self.scenario}")
        try:
            Objectives.parse(self.slo)
        except ValueError as error:
            raise ValueError(f"--slo {error}") from None
        self.steps(1)

    @property
    def objectives(self) -> Objectives:
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
        taken: dict[str, Any] = {}
        for each in fields(cls):
            value = values.get(each.name)
            kind: Any = type(each.default)
            if value is None:
                continue
            try:
                is_text = isinstance(value, str) and kind is bool
                taken[each.name] = value.lower() in ("true", "1", "on") if is_text else kind(value)
            except (TypeError, ValueError):
                raise ValueError(f"{_name(each)} {value!r}: it must be a number") from None
        return cls(**taken)


def _name(option: "Field[Any]") -> str:
    return "--" + option.name.replace("_", "-")


def add_to(parser: Any) -> None:
    """Add the options to locust's parser; numbers stay text, which `Options.read` checks."""
    for each in fields(Options):
        text, default = each.metadata["help"], str(each.default)
        if each.name == "ignore_eos":
            parser.add_argument(
                "--no-ignore-eos", dest=each.name, action="store_false", help=f"do not {text}"
            )
        elif each.name == "scenario":
            parser.add_argument(_name(each), default=default, choices=SCENARIOS, help=text)
        else:
            parser.add_argument(
                _name(each),
                default=default,
                metavar=type(each.default).__name__.upper().replace("STR", "TEXT"),
                is_secret=each.name == "api_key",
                help=f"{text} (default: {default or 'none'})".replace("%", "%%"),
            )


def usage() -> str:
    """What ``scripts/load-test --help`` prints; locust's own help leaves these options out."""
    lines = [
        "usage: ./scripts/load-test [--web] [OPTION VALUE]...",
        "",
        "Puts load on a server with an OpenAI-style API, and reports what its users would see.",
        "--web runs it on locust's own page, on this machine only. Of locust's options (see",
        "`locust --help`) the most useful are --host URL (default: http://127.0.0.1:8000),",
        "-u USERS, -t TIME (default: 60s).",
        "",
    ]
    for each in fields(Options):
        option, text = _name(each), each.metadata["help"]
        if each.name == "ignore_eos":
            option, text = "--no-ignore-eos", f"do not {text}"
        elif each.default != "":
            text += f" (default: {each.default})"
        lines += textwrap.wrap(
            f"{option:<21} {text}", 98, initial_indent="  ", subsequent_indent=" " * 24
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(usage())
