"""Has schemathesis make requests of the server's own OpenAPI document, good ones and bad ones."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from scripts.fuzz.raw import FuzzReport

_ANSWER_WITHIN_S = 20.0
_CHECKS: list[CheckFunction] = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
_PROPER_5XX = {503, 504}
_MOST_OF_A_KIND = 3
_MODES = ((GenerationMode.NEGATIVE, 0.5), (GenerationMode.POSITIVE, 1.0))
"""With the part of an operation's cases after which there are no more of it."""


def fuzz(url: str, n: int, seed: int) -> FuzzReport:
    """Send at most ``n`` cases, shared out among the endpoints; what takes no body has few."""
    report, kinds = FuzzReport(), Counter[str]()
    operations = []
    for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        if isinstance(result, Ok):
            operations.append(result.ok())
        else:
            report.violations.append(f"an operation that cannot be fuzzed: {result.err()}")
    operations.sort(key=lambda operation: operation.method.upper() == "POST")
    with requests.Session() as session:
        for number, operation in enumerate(operations):
            # What some have not used is left for those behind them.
            left = -(-(n - report.cases) // (len(operations) - number))
            before = report.cases
            for mode, until in _MODES:
                examine = _examiner(url, session, report, kinds, mode)
                _generate(
                    operation, mode, before + round(until * left) - report.cases, seed, examine
                )
            if report.cases == before:
                report.violations.append(f"{operation.label} was not fuzzed")
    return report


def _generate(
    operation: Any, mode: GenerationMode, n: int, seed: int, examine: Callable[[Any], None]
) -> None:
    test = hypothesis.given(case=operation.as_strategy(generation_mode=mode))(
        lambda case: examine(case)
    )
    test = hypothesis.settings(
        max_examples=max(1, n),
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )(test)
    with suppress(hypothesis.errors.Unsatisfiable):  # then nothing about it can be wrong
        hypothesis.seed(seed)(test)()


def _examiner(
    url: str,
    session: requests.Session,
    report: FuzzReport,
    kinds: Counter[str],
    mode: GenerationMode,
) -> Callable[[Any], None]:
    # A case that fails is noted, not raised: there is then nothing to shrink, and each is counted.
    def violate(kind: str, evidence: str) -> None:
        kinds[kind] += 1
        if kinds[kind] <= _MOST_OF_A_KIND:
            report.violations.append(f"{kind}\n{evidence}")

    def examine(case: Any) -> None:
        report.cases += 1
        if mode is GenerationMode.POSITIVE:
            _meet_unwritten_rules(case.body)
        where = f"{case.operation.method.upper()} {case.operation.path}"
        started_s = time.monotonic()
        try:
            response = case.call(base_url=url, session=session, timeout=_ANSWER_WITHIN_S)
        except requests.RequestException as error:
            violate(f"{where}: no answer", f"{error!r}\n{str(case.body)[:300]}")
            return
        report.slowest_s = max(report.slowest_s, time.monotonic() - started_s)
        status = response.status_code
        report.outcomes[str(status)] += 1
        evidence = f"{case.as_curl_command()[:600]}\n{response.text[:300]}"
        if status >= 500 and status not in _PROPER_5XX:
            violate(f"{where}: status {status}", evidence)
        try:
            case.validate_response(response, checks=_CHECKS)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                violate(f"{where} {status}: {type(failure).__name__}", f"{failure}\n{evidence}")

    return examine


def _meet_unwritten_rules(body: Any) -> None:
    """Change a body that the document allows so that the server does; else nearly none is served.

    JSON Schema takes 1.0 for an integer, and has no words for what one field asks of another.
    """
    if not isinstance(body, dict):
        return
    for name in ("model", "suffix", *(() if body.get("stream") else ("stream_options",))):
        body.pop(name, None)
    for name, value in body.items():
        if isinstance(value, float) and value.is_integer():
            body[name] = int(value)
    messages = body.get("messages")
    for item in messages if isinstance(messages, list) else ():
        for message in item if isinstance(item, list) else (item,):
            if isinstance(message, dict) and not message.get("content"):
                message["content"] = "Hello"
    body["prompt"] = body.get("prompt") or "Hello"
