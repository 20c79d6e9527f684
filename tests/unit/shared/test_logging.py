"""Tests of the two forms of the log."""

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from shared.logging import configure_logging, request_id_var

FORGED = "x\n2026-01-01 00:00:00,000 INFO gateway gateway.access: forged\x1b[2J\r\u2028end"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, warnings.showwarning
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    warnings.showwarning = shown


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def written(log_format: str, process: str = "worker-12", request_id: str = "") -> str:
    stream = io.StringIO()
    configure_logging("INFO", log_format, process, stream)
    logger = logging.getLogger("some.place")
    token = request_id_var.set(request_id)
    logger.debug("not shown")
    logger.info("first %s", FORGED)
    logger.error("second", exc_info=raised(FORGED))
    logger.info("third", extra={"fields": {"request_id": "other", "tokens": 3}})
    logger.warning("fourth", stack_info=True)
    request_id_var.reset(token)
    return stream.getvalue()


def test_json_is_an_object_in_each_line() -> None:
    entries = [json.loads(line) for line in written("json", request_id="abc").split("\n")[:-1]]
    first, second, third, fourth = entries
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("ts"))
    assert first == {
        "level": "info",
        "logger": "some.place",
        "process": "worker-12",
        "worker_id": 12,
        "message": f"first {FORGED}",
        "request_id": "abc",
    }
    assert second["level"] == "error"
    assert second["exception"].startswith("Traceback ") and second["exception"].endswith(FORGED)
    assert (third["request_id"], third["tokens"]) == ("other", 3)
    assert "test_logging" in fourth["exception"]


def test_the_gateway_has_no_worker_id_and_what_is_nobodys_has_no_request_id() -> None:
    for line in written("json", "gateway").splitlines():
        assert not {"worker_id"} & set(json.loads(line))
    assert "request_id" not in json.loads(written("json").splitlines()[0])


def test_no_text_makes_a_line_of_its_own_on_a_console() -> None:
    lines = written("console", request_id="abc").split("\n")[:-1]
    heads = [line for line in lines if not line.startswith("    ")]
    assert [re.sub(r"^[\d-]+ [\d:,]+ ", "", line) for line in heads] == [
        "INFO worker-12 some.place: first x\\n2026-01-01 00:00:00,000 INFO gateway gateway.access:"
        " forged\\x1b[2J\\r\\u2028end [abc]",
        "ERROR worker-12 some.place: second [abc]",
        "INFO worker-12 some.place: third",
        "WARNING worker-12 some.place: fourth [abc]",
    ]
    assert all(line.isprintable() for line in lines)
    assert any("forged" in line for line in lines if line not in heads)


def test_warnings_have_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging("INFO", "json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert json.loads(stream.getvalue())["logger"] == "py.warnings"
