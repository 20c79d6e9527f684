"""Load tests of a server with an OpenAI-style API, for locust.

`scripts/load-test` runs them; so does locust with ``-f scripts/load/locustfile.py`` and its own
options. What locust shows while they run includes the warm-up; the report at the end does not.
"""

# Neither library tells its types.
# mypy: disable-error-code="import-untyped, no-untyped-call, untyped-decorator"

import logging
import sys
import time
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
from scripts.load.scenario import Request, Run, Scenario  # noqa: E402
from scripts.prompts import arrivals  # noqa: E402
from scripts.transcript import Outcome, outcome  # noqa: E402

_PAUSE_AFTER_BURST_S = 1.0
_SUFFIXES = {"refused": "_429", "unavailable": "_503", "disconnected": "_closed"}

logger = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener
def add_options(parser: Any, **_: Any) -> None:
    add_to(parser)


@events.init.add_listener
def check(environment: Any, **_: Any) -> None:
    """Refuse what cannot be run before anything is."""
    if environment.parsed_options is None:
        return
    if not isinstance(environment.runner, LocalRunner):
        sys.exit("the report needs all requests in one process: leave out --master, --worker and"
                 " --processes")  # fmt: skip
    try:
        options = Options.read(vars(environment.parsed_options))
        if options.sweep:
            _refuse_beside_sweep(environment.parsed_options)
        if environment.web_ui is None or options.sweep:
            server = _server_of(environment, options)
            users = options.steps(server[2])
            environment.shape_class = Sweep(users, options.step_time) if users else None
    except (ValueError, OSError) as error:
        sys.exit(f"load test: {error}")


def _refuse_beside_sweep(parsed: Any) -> None:
    for name, option in (("num_users", "-u"), ("spawn_rate", "-r"), ("run_time", "-t")):
        if getattr(parsed, name, None) is not None:
            raise ValueError(
                f"{option} has no meaning with --sweep, which lists the users of each step;"
                " --step-time says how long each takes"
            )


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
    state = ready if isinstance(ready, dict) else {}
    # A server that says nothing counts as one.
    return url, model, state.get("slots") or len(state.get("workers") or ()) or 1


class Sweep(LoadTestShape):
    """One step after another, each with its number of users."""

    abstract = True

    def __init__(self, users: list[int], step_time_s: float) -> None:
        super().__init__()
        self._users = users
        self._step_time_s = step_time_s
        self._number = 0

    def reset_time(self) -> None:
        """Begin with the first step; locust calls this at the start of each test."""
        super().reset_time()
        self._number = 0

    def tick(self) -> tuple[int, float] | None:
        """The users at this moment; None at the end."""
        number = int(self.get_run_time() // self._step_time_s)
        if number >= len(self._users):
            return None
        # `start` has begun the first.
        if LoadUser.current is not None and number != self._number:
            LoadUser.current.begin_step(self._users[number])
            self._number = number
        return self._users[number], 1000.0


@events.test_start.add_listener
def start(environment: Any, **_: Any) -> None:
    LoadUser.current = None
    try:
        options = Options.read(vars(environment.parsed_options))
        url, model, slots = _server_of(environment, options)
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        environment.process_exit_code = 2
        gevent.spawn(environment.runner.stop)
        return
    LoadUser.current = Run(options, url, model)
    users = options.steps(slots) or [int(environment.parsed_options.num_users or 1)]
    LoadUser.current.begin_step(users[0])


@events.test_stopping.add_listener
def stop(**_: Any) -> None:
    """End what is measured; what still runs is cut off."""
    if LoadUser.current is not None:
        LoadUser.current.end()


@events.test_stop.add_listener
def finish(environment: Any, **_: Any) -> None:
    run = LoadUser.current
    if run is None:
        return
    summaries, checks = run.summaries(), run.checks()
    print(f"\n{run.options.scenario} on {run.url}, {run.model}\n")
    print(report.table(summaries, checks), flush=True)
    if run.options.report:
        try:
            paths = report.write(Path(run.options.report), run.settings(), summaries, checks)
            print("\nwritten: " + ", ".join(map(str, paths)), flush=True)
        except OSError as error:
            logger.error("the report cannot be written: %s", error)
            environment.process_exit_code = 1
    if not all(check.passed for check in checks):
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
        user = next(run.users)
        self._scenario = Scenario(options, run.model, user)
        self._free: list[Connection] = []
        self._requests = Group()
        share = options.rate / max(1, self.environment.runner.target_user_count)
        self._pauses = arrivals(share, options.burstiness, options.seed, user) if share else None

    def on_stop(self) -> None:
        """Cut off what is still running."""
        if LoadUser.current is not None:
            self._requests.kill()
            for connection in self._free:
                connection.close()

    @task
    def act(self) -> None:
        """Do the next thing that the scenario has this user do."""
        scenario, options = self._scenario, self._run.options
        if self._pauses is not None:
            gevent.sleep(next(self._pauses))
            self._requests.spawn(self._send, scenario.single())
            return
        match options.scenario:
            case "burst":
                for _ in range(options.burst_size):
                    self._requests.spawn(self._send, scenario.single())
                self._requests.join()
                gevent.sleep(_PAUSE_AFTER_BURST_S)
            case "disconnect":
                self._send(scenario.single())
                # Had the worker not come back, this would wait.
                self._send(scenario.staying())
            case "multi-turn":
                for _ in scenario.chat(self._send):
                    pass
            case _:
                self._send(scenario.single())

    def _send(self, request: Request) -> Outcome:
        options = self._run.options
        if self._free:
            connection = self._free.pop()
        else:
            connection = Connection(self._run.url, options.api_key, options.request_timeout)
        answer = Answer(time.monotonic())
        content = request.content()
        try:
            connection.exchange(answer, "POST", request.path, content, request.close_after)
        finally:
            # Also when the end of the test kills this greenlet.
            if answer.end == "running":
                answer.finish("running")
            seen = outcome(request.name, answer, request.path, options.max_tokens)
            self._run.outcomes.append(seen)
        self._free.append(connection)
        self._tell_locust(seen)
        return seen

    def _tell_locust(self, seen: Outcome) -> None:
        name = seen.name + _SUFFIXES.get(seen.kind, "")
        error = (
            RuntimeError(f"{seen.code} {seen.detail}".strip()) if seen.kind == "failed" else None
        )
        self._fire(name, seen.e2el_s, seen.completion_tokens, error)
        if seen.kind == "completed":
            if seen.ttft_s is not None:
                self._fire(f"{name}_ttft", seen.ttft_s)
            if seen.tpot_s is not None:
                self._fire(f"{name}_tpot", seen.tpot_s)
            for gap_s in seen.gaps_s:
                self._fire(f"{name}_itl", gap_s)

    def _fire(
        self, name: str, seconds: float, length: int = 0, error: Exception | None = None
    ) -> None:
        self.environment.events.request.fire(
            request_type="POST",
            name=name,
            response_time=seconds * 1e3,
            response_length=length,
            exception=error,
            context={},
        )
