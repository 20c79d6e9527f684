"""Load tests of a server with an OpenAI-style API, for locust.

`scripts/load-test` runs them; so does locust with ``-f scripts/load/locustfile.py`` and its own
options. What locust shows while they run includes the warm-up; the report at the end does not.
"""

# Neither library tells its types.
# mypy: disable-error-code="import-untyped, no-untyped-call, untyped-decorator"

import itertools
import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gevent
from gevent.pool import Group
from locust import LoadTestShape, User, events, task
from locust.runners import LocalRunner

# locust loads this file by its path.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from scripts.client import Answer, Connection, model_of  # noqa: E402
from scripts.load import report  # noqa: E402
from scripts.load.options import Options, add_to  # noqa: E402
from scripts.prompts import Prompts, arrivals  # noqa: E402
from scripts.transcript import Outcome, outcome  # noqa: E402

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_SUFFIXES = {"refused": "_429", "unavailable": "_503"}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """One test, and what its users see."""

    options: Options
    url: str
    model: str
    outcomes: list[Outcome] = field(default_factory=list)  #: one for each request that was sent
    users: Iterator[int] = field(default_factory=itertools.count)  #: numbers for them
    steps: list[tuple[int, float]] = field(default_factory=list)  #: users, and when it began
    end_s: float = 0.0

    def begin_step(self, users: int) -> None:
        self.steps.append((users, time.monotonic()))

    def summaries(self) -> list[report.Summary]:
        """The figures of each step, without its warm-up."""
        ends_s = [*(start_s for _, start_s in self.steps[1:]), self.end_s]
        found = []
        for (users, start_s), end_s in zip(self.steps, ends_s, strict=True):
            window = report.Window(min(start_s + self.options.warmup, end_s), end_s)
            users = 0 if self.options.rate else users
            limits = self.options.limits()
            found.append(report.summarize(self.outcomes, window, limits, users))
        return found


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


@events.test_stopping.add_listener
def stop(**_: Any) -> None:
    """End what is measured; what still runs is cut off."""
    if LoadUser.current is not None:
        LoadUser.current.end_s = time.monotonic()


@events.test_stop.add_listener
def finish(environment: Any, **_: Any) -> None:
    run = LoadUser.current
    if run is None:
        return
    summaries, options = run.summaries(), asdict(run.options)
    print(f"\n{run.options.scenario} on {run.url}, {run.model}\n")
    print(report.table(summaries), flush=True)
    if path := options["report"]:
        del options["api_key"]
        try:
            report.write(Path(path), {**options, "url": run.url, "model": run.model}, summaries)
            print(f"\nwritten: {path}", flush=True)
        except OSError as error:
            logger.error("the report cannot be written: %s", error)
            environment.process_exit_code = 1


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
        answer = Answer(time.monotonic())
        try:
            connection.exchange(answer, "POST", path, json.dumps(body).encode())
        finally:
            # Also when the end of the test kills this greenlet.
            if answer.end == "running":
                answer.finish("running")
            seen = outcome(name, answer, path, options.max_tokens)
            self._run.outcomes.append(seen)
        self._free.append(connection)
        self._show(seen)
        return seen

    def _show(self, seen: Outcome) -> None:
        """Fire locust's events, for its own page, CSV and HTML."""
        name = seen.name + _SUFFIXES.get(seen.kind, "")
        failure = f"{seen.code} {seen.detail}".strip() if seen.kind == "failed" else ""
        times_s = [("", seen.e2el_s)]
        if seen.kind == "completed":
            single = (("_ttft", seen.ttft_s), ("_tpot", seen.tpot_s))
            times_s += [(suffix, value) for suffix, value in single if value is not None]
            times_s += [("_itl", gap_s) for gap_s in seen.gaps_s]
        for suffix, seconds in times_s:
            self.environment.events.request.fire(
                request_type="POST",
                name=f"{name}{suffix}",
                response_time=seconds * 1e3,
                response_length=0 if suffix else seen.completion_tokens,
                exception=RuntimeError(failure) if failure else None,
                context={},
            )
