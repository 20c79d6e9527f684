"""Has schemathesis make requests of the server's own OpenAPI document, good ones and bad ones."""

import time
from collections import Counter
from collections.abc import Callable
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

from scripts.campaign.fuzz import FuzzReport

_ANSWER_WITHIN_S = 20.0
_CHECKS: list[CheckFunction] = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
_PROPER_5XX = {503, 504}
_MOST_OF_A_KIND = 3
_MOST_ROUNDS = 8


def fuzz(url: str, n: int, seed: int) -> FuzzReport:
    """Send at least ``n`` cases, most of them to the endpoints that take a body."""
    report, kinds, tried = FuzzReport(), Counter[str](), Counter[str]()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = []
    for result in schema.get_all_operations():
        if isinstance(result, Ok):
            operations.append(result.ok())
        else:
            report.violations.append(f"an operation that cannot be fuzzed: {result.err()}")
    posts = [operation for operation in operations if operation.method.upper() == "POST"]
    others = [operation for operation in operations if operation.method.upper() != "POST"]
    with requests.Session() as session:
        for number in range(_MOST_ROUNDS):
            left = n - report.cases
            # What takes no body has few cases, which the first round has all of.
            some = [*posts, *others] if number == 0 else posts
            for operation in some if left > 0 else ():
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    each = -(-left // len(some) // 2)
                    examine = _examiner(url, session, report, kinds, mode)
                    before = report.cases
                    _generate(operation, mode, each, seed + number, examine)
                    tried[operation.label] += report.cases - before
    for operation in operations:
        if not tried[operation.label]:
            report.violations.append(f"{operation.label} was not fuzzed")
    if report.cases < n:
        report.violations.append(f"only {report.cases} of {n} cases could be made")
    return report


def _generate(
    operation: Any, mode: GenerationMode, n: int, seed: int, examine: Callable[[Any], None]
) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
        test = hypothesis.given(case=strategy)(lambda case: examine(case))
        test = hypothesis.settings(
            max_examples=n,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )(test)
        hypothesis.seed(seed)(test)()
    except hypothesis.errors.Unsatisfiable:
        pass  # nothing about it can be wrong


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
    for name in (
        ("model", "suffix") if body.get("stream") else ("model", "suffix", "stream_options")
    ):
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
