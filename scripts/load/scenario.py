"""The requests of each scenario, and what one test collects and checks."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.client import Connection
from scripts.load.metrics import Summary, Window, summarize
from scripts.load.options import Options
from scripts.load.report import Check
from scripts.prompts import Prompts
from scripts.transcript import Outcome

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_FREE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    name: str  #: what its figures are filed under
    path: str
    body: dict[str, Any]
    close_after: int = 0  #: pieces of the answer until the connection is closed; 0 for never

    def content(self) -> bytes:
        return json.dumps(self.body).encode()


class Scenario:
    """Makes the requests of one user, whose number makes its prompts differ from others'."""

    def __init__(self, options: Options, model: str, user: int) -> None:
        self._options = options
        self._prompts = Prompts(options.seed, options.prompt_tokens, options.shared_prefix)
        self._user = user
        self._numbers = itertools.count()
        self._common: dict[str, Any] = {
            "model": model,
            "max_tokens": options.max_tokens,
            "temperature": 0,
            "seed": options.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if options.ignore_eos else {}),
        }

    def single(self) -> Request:
        """A request on its own, with a prompt of its own."""
        key, name = (self._user, next(self._numbers)), self._options.scenario
        after = self._options.disconnect_after if name == "disconnect" else 0
        if name == "completions":
            return self._request(name, COMPLETIONS, prompt=self._prompts.completion(*key))
        request = self._request(name, CHAT, messages=self._prompts.opening(*key))
        return Request(request.name, request.path, request.body, after)

    def staying(self) -> Request:
        """The same, whose answer is read to its end."""
        request = self.single()
        return Request(self._options.scenario, request.path, request.body)

    def chat(self, send: Callable[[Request], Outcome]) -> Iterator[Outcome]:
        """Hold a chat of several turns; it ends early if a turn is not complete."""
        number = next(self._numbers)
        messages = self._prompts.opening(self._user, number)
        for turn in range(1, self._options.turns + 1):
            if turn > 1:
                question = self._prompts.text(self._user, number, turn)
                messages = [*messages, {"role": "user", "content": question}]
            outcome = send(self._request(f"turn-{turn}", CHAT, messages=messages))
            yield outcome
            if outcome.kind != "completed":
                return
            messages = [*messages, {"role": "assistant", "content": outcome.text}]

    def _request(self, name: str, path: str, **content: Any) -> Request:
        return Request(name, path, {**self._common, **content})


@dataclass(slots=True)
class Step:
    """A part of a test with the same number of users; 0 for an open loop."""

    users: int
    start_s: float
    end_s: float | None = None  #: None while it runs


@dataclass(slots=True)
class Run:
    """Collects what the users of one test see."""

    options: Options
    url: str
    model: str
    outcomes: list[Outcome] = field(default_factory=list)  #: one for each request that was sent
    users: Iterator[int] = field(default_factory=itertools.count)  #: numbers for them
    _steps: list[Step] = field(default_factory=list)

    def begin_step(self, users: int) -> None:
        self.end()
        self._steps.append(Step(users, time.monotonic()))

    def end(self) -> None:
        if self._steps and self._steps[-1].end_s is None:
            self._steps[-1].end_s = time.monotonic()

    def summaries(self) -> list[Summary]:
        """The figures of each step, without its warm-up."""
        found = []
        for step in self._steps:
            end_s = step.start_s if step.end_s is None else step.end_s
            window = Window(min(step.start_s + self.options.warmup, end_s), end_s)
            users = 0 if self.options.rate else step.users
            found.append(summarize(self.outcomes, window, self.options.objectives, users))
        return found

    def checks(self) -> list[Check]:
        """What must be so after the scenario; waits until the server is idle."""
        if self.options.scenario not in ("disconnect", "burst"):
            return []
        kinds = [outcome.kind for outcome in self.outcomes]
        if self.options.scenario == "disconnect":
            n = kinds.count("disconnected")
            name = "a closed connection harms no other request"
            detail = f"{n} closed, {kinds.count('completed')} answered in between"
            passed = n > 0 and "completed" in kinds and "failed" not in kinds
        else:
            refused = [outcome for outcome in self.outcomes if outcome.kind == "refused"]
            silent = sum(not outcome.retry_after for outcome in refused)
            name = "a 429 carries Retry-After"
            detail = f"{len(refused)} of {len(kinds)} requests got a 429, {silent} of them without"
            if not refused:
                detail = f"none of {len(kinds)} requests got a 429; raise --burst-size"
            passed = bool(refused) and not silent
        checks = [Check(name, passed, detail)]
        freed_s = self._freed_after()
        if freed_s is not None:
            is_late = freed_s > _FREE_WITHIN_S
            detail = f"not within {_FREE_WITHIN_S:.0f} s" if is_late else f"after {freed_s:.2f} s"
            checks.append(Check("all workers are free", not is_late, detail))
        return checks

    def _freed_after(self) -> float | None:
        """Seconds until nothing runs or waits, infinity if it takes too long.

        None if the server does not say: it has no ``/ready`` that counts requests.
        """
        connection = Connection(self.url, self.options.api_key, _FREE_WITHIN_S)
        started_s = time.monotonic()
        try:
            while (elapsed_s := time.monotonic() - started_s) <= _FREE_WITHIN_S:
                ready = connection.get("/ready")
                if not isinstance(ready, dict) or not {"running", "waiting"} <= ready.keys():
                    return None
                if ready["running"] == 0 and ready["waiting"] == 0:
                    return elapsed_s
                time.sleep(0.01)
        except OSError:
            pass
        finally:
            connection.close()
        return float("inf")

    def settings(self) -> dict[str, Any]:
        """What the report says of how it came about; no secrets."""
        settings = asdict(self.options)
        del settings["api_key"]
        return {**settings, "url": self.url, "model": self.model}
