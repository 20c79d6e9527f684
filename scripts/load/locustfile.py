"""Load tests of a server with an OpenAI-style API, for locust.

`scripts/load-test` runs them; so does locust with ``-f scripts/load/locustfile.py`` and its own
options. Each kind of request has rows in locust's reports: NAME to the end of the answer, NAME_ttft
to the first text, NAME_tpot for each token after it, NAME_itl between pieces of text.
"""

# Neither library tells its types.
# mypy: disable-error-code="import-untyped, no-untyped-call, untyped-decorator"

import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gevent
from gevent.pool import Group
from locust import LoadTestShape, User, events, task
from locust.runners import LocalRunner

# locust loads this file by its path.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from scripts.client import Connection, model_of  # noqa: E402
from scripts.load.options import Options, add_to, is_good  # noqa: E402
from scripts.prompts import Prompts, arrivals  # noqa: E402
from scripts.transcript import Outcome, outcome  # noqa: E402

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_SUFFIXES = {"refused": "_429", "unavailable": "_503"}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Step:
    """A part of a test with the same number of users; what begins in its warm-up is not counted."""

    prefix: str  #: of the names in the reports
    start_s: float
    tokens: Counter[str] = field(default_factory=Counter)  #: of complete requests, by kind


@dataclass(slots=True)
class Run:
    """One test."""

    options: Options
    url: str
    model: str
    users: Iterator[int] = field(default_factory=itertools.count)  #: numbers for them
    steps: list[Step] = field(default_factory=list)

    def begin_step(self, users: int) -> None:
        prefix = f"{users} users: " if self.options.sweep else ""
        self.steps.append(Step(prefix, time.monotonic() + self.options.warmup))

    def token_rates(self) -> Iterator[str]:
        """A line for each step."""
        ends_s = [step.start_s - self.options.warmup for step in self.steps[1:]]
        for step, end_s in zip(self.steps, [*ends_s, time.monotonic()], strict=True):
            tokens = step.tokens
            rate = tokens["output"] / max(end_s - step.start_s, 1e-9)
            yield (
                f"{step.prefix}output tokens/s {rate:,.2f}; tokens: prompt {tokens['prompt']}"
                f" (cached {tokens['cached']}), output {tokens['output']}"
            )


@events.init_command_line_parser.add_listener
def add_options(parser: Any, **_: Any) -> None:
    add_to(parser, {"is_secret": True})


@events.init.add_listener
def check(environment: Any, **_: Any) -> None:
    """Refuse what cannot be run before anything is."""
    parsed = environment.parsed_options
    if parsed is None:
        return
    if not isinstance(environment.runner, LocalRunner):
        sys.exit("the report needs all requests in one process: leave out --master, --worker and"
                 " --processes")  # fmt: skip
    try:
        options = Options.read(parsed)
        beside = parsed.num_users, parsed.spawn_rate, parsed.run_time
        if options.sweep and any(value is not None for value in beside):
            raise ValueError("-u, -r and -t have no meaning with --sweep, which lists the users of"
                             " each step; --step-time says how long each takes")  # fmt: skip
        if environment.web_ui is None or options.sweep:
            users = options.steps(_server_of(environment, options)[2])
            environment.shape_class = Sweep(users, options.step_time) if users else None
    except (ValueError, OSError) as error:
        sys.exit(f"load test: {error}")


def _server_of(environment: Any, options: Options) -> tuple[str, str, int]:
    """Address, model and number of requests that the server under test runs at once.

    Raises:
        ValueError: the address is none.
        OSError: no such server answers there.
    """
    url = environment.host or "http://127.0.0.1:8000"
    connection = Connection(url, options.api_key, options.request_timeout)
    try:
        model = options.model or model_of(connection)
        ready = connection.get("/ready")
    except OSError as error:
        raise ConnectionError(f"no OpenAI-style server answers at {url}: {error}") from error
    finally:
        connection.close()
    # A server that says nothing counts as one.
    return url, model, (ready if isinstance(ready, dict) else {}).get("slots") or 1


class Sweep(LoadTestShape):
    """One step after another, each with its number of users."""

    abstract = True

    def __init__(self, users: list[int], step_time_s: float) -> None:
        super().__init__()
        self._users, self._step_time_s = users, step_time_s

    def tick(self) -> tuple[int, float] | None:
        """The users at this moment; None at the end."""
        number = int(self.get_run_time() // self._step_time_s)
        if number >= len(self._users):
            return None
        run = LoadUser.current
        # `start` has begun the first.
        if run is not None and number == len(run.steps):
            run.begin_step(self._users[number])
        return self._users[number], 1000.0


@events.test_start.add_listener
def start(environment: Any, **_: Any) -> None:
    LoadUser.current = None
    try:
        options = Options.read(environment.parsed_options)
        url, model, n_slots = _server_of(environment, options)
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        environment.process_exit_code = 2
        gevent.spawn(environment.runner.stop)
        return
    LoadUser.current = Run(options, url, model)
    users = options.steps(n_slots) or [int(environment.parsed_options.num_users or 1)]
    LoadUser.current.begin_step(users[0])


@events.test_stop.add_listener
def finish(**_: Any) -> None:
    if (run := LoadUser.current) is not None:
        print(f"\n{run.options.scenario} on {run.url}, {run.model}")
        print(*run.token_rates(), sep="\n", flush=True)


class LoadUser(User):
    """Sends the requests of the scenario, one after another or at the open loop's times."""

    current: ClassVar[Run | None] = None

    def on_start(self) -> None:
        run = LoadUser.current
        if run is None:
            gevent.sleep(1e6)  # the test is being stopped
        assert run is not None
        self._run, options = run, run.options
        self._number, self._asked = next(run.users), itertools.count()
        self._prompts = Prompts(options.seed, options.prompt_tokens, options.shared_prefix)
        self._limits_s = options.limits_s()
        self._free: list[Connection] = []
        self._requests = Group()
        share = options.rate / max(1, self.environment.runner.target_user_count)
        pauses = arrivals(share, options.burstiness, options.seed, self._number)
        self._pauses = pauses if share else None

    def on_stop(self) -> None:
        """Cut off what is still running."""
        if LoadUser.current is not None:
            self._requests.kill()
            for connection in self._free:
                connection.close()

    @task
    def act(self) -> None:
        """Do the next thing that the scenario has this user do."""
        key = self._number, next(self._asked)
        name = self._run.options.scenario
        if name == "multi-turn":
            self._hold_chat(*key)
            return
        request: tuple[str, dict[str, Any]] = CHAT, {"messages": self._prompts.opening(*key)}
        if name == "completions":
            request = COMPLETIONS, {"prompt": self._prompts.completion(*key)}
        if self._pauses is None:
            self._send(name, *request)
        else:
            gevent.sleep(next(self._pauses))
            self._requests.spawn(self._send, name, *request)

    def _hold_chat(self, *key: int) -> None:
        """Hold a chat of several turns; it ends early if a turn is not complete."""
        messages = self._prompts.opening(*key)
        for turn in range(1, self._run.options.turns + 1):
            seen = self._send(f"turn-{turn}", CHAT, {"messages": messages})
            if seen.kind != "completed":
                return
            question = self._prompts.text(*key, turn + 1)
            messages = [
                *messages,
                {"role": "assistant", "content": seen.text},
                {"role": "user", "content": question},
            ]

    def _send(self, name: str, path: str, content: dict[str, Any]) -> Outcome:
        options = self._run.options
        body = {
            "model": self._run.model, "max_tokens": options.max_tokens, "temperature": 0,
            "seed": options.seed, "stream": True, "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if options.ignore_eos else {}), **content,
        }  # fmt: skip
        if self._free:
            connection = self._free.pop()
        else:
            connection = Connection(self._run.url, options.api_key, options.request_timeout)
        step = self._run.steps[-1]
        answer = connection.post(path, body)
        self._free.append(connection)
        seen = outcome(name, answer, path)
        if seen.started_s >= step.start_s:
            self._show(seen, step)
        return seen

    def _show(self, seen: Outcome, step: Step) -> None:
        """Fire locust's events, of which it makes its reports."""
        name = step.prefix + seen.name + _SUFFIXES.get(seen.kind, "")
        failure = f"{seen.code} {seen.detail}".strip() if seen.kind == "failed" else ""
        times_s = [("", seen.e2el_s)]
        if seen.kind == "completed":
            single = (("_ttft", seen.ttft_s), ("_tpot", seen.tpot_s))
            times_s += [(suffix, value) for suffix, value in single if value is not None]
            times_s += [("_itl", gap_s) for gap_s in seen.gaps_s]
            if self._limits_s and is_good(seen, self._limits_s):
                times_s.append(("_good", seen.e2el_s))
            step.tokens["prompt"] += seen.prompt_tokens
            step.tokens["cached"] += seen.cached_tokens
            step.tokens["output"] += seen.completion_tokens
        for suffix, seconds in times_s:
            self.environment.events.request.fire(
                request_type="POST",
                name=f"{name}{suffix}",
                response_time=seconds * 1e3,
                response_length=0 if suffix else seen.completion_tokens,
                exception=RuntimeError(failure) if failure else None,
                context={},
            )
