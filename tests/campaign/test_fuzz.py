"""The fuzzers' short forms against a real server, and that they see what must not be."""

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from scripts.fuzz import raw, schema
from scripts.fuzz.__main__ import main
from scripts.fuzz.raw import SETTINGS, FuzzReport
from scripts.fuzz.spoiled import VALID, spoiled
from scripts.server import Server, served

SEED = 11


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(**SETTINGS) as server:
        yield server


def test_spoiled_bytes_are_answered_or_hung_up_on(server: Server) -> None:
    report = asyncio.run(raw.fuzz(server, 400, SEED))
    assert report.violations == []
    assert report.cases == 400 + len(VALID)
    assert report.outcomes["400"] > 50 and report.outcomes["200"] > 5, report.outcomes


def test_the_openapi_document_says_what_the_server_does(server: Server) -> None:
    assert schema.fuzz(server.url, 3, SEED, phases="fuzzing")


def test_the_command_writes_what_it_has_found(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fuzz.json"
    assert main(["--only", "raw", "--cases", "60", "--seed", "3", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert (found["cases"], found["violations"]) == (60 + len(VALID), [])
    assert sum(found["outcomes"].values()) == found["cases"]


def test_a_case_can_be_sent_again() -> None:
    cases = [spoiled(random.Random(f"{SEED} raw {number}")) for number in range(300)]
    assert cases == [spoiled(random.Random(f"{SEED} raw {number}")) for number in range(300)]
    assert len(set(cases) - set(VALID)) > 250


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nTraceback", "a traceback"),
        (b"Hello\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "hangs"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHell", "cut short"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nHello\r\n", "cut short"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "cut short"),
    ],
)
def test_sees_a_bad_answer(answer: bytes, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "BOUND_S", 0.3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        try:
            await reader.read(1 << 20)
            if what not in ("no HTTP", "cut short"):
                await asyncio.Event().wait()
        finally:
            writer.close()

    async def scenario() -> FuzzReport:
        report = FuzzReport()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            await raw.send_case(server.sockets[0].getsockname()[1], 0, SEED, report)
        return report

    (violation,) = asyncio.run(scenario()).violations
    assert what in violation


def test_sees_a_server_that_always_hangs_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 20)
        writer.close()

    async def scenario() -> FuzzReport:
        report = FuzzReport()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await raw.send_case(port, 0, SEED, report)
            await raw.check_answers(port, report)
        return report

    without, *valid = asyncio.run(scenario()).violations
    assert without == "1 of 1 cases were hung up on without an answer"
    assert len(valid) == len(VALID)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_sees_what_the_document_does_not_allow(capfd: pytest.CaptureFixture[str]) -> None:
    app = FastAPI()

    @app.get("/wrong", response_model=dict[str, int])
    def wrong() -> JSONResponse:
        return JSONResponse({"n": "many"})

    @app.get("/broken", responses={500: {}})
    def broken() -> JSONResponse:
        return JSONResponse({}, 500)

    @app.get("/unknown")
    def unknown() -> JSONResponse:
        return JSONResponse({}, 418)

    with running(app) as url:
        assert not schema.fuzz(url, 2, SEED, phases="fuzzing")
    output = capfd.readouterr().out
    for what in ("Response violates schema", "status 500", "418"):
        assert what in output
