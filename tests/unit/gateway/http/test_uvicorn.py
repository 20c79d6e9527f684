"""What `gateway.http` and `gateway.server` take for granted of uvicorn and its parser.

A release that changes it fails here first, by name; then read what has changed.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

SIGNATURES: dict[Callable[..., Any], str] = {
    HttpToolsProtocol.__init__: "self, config, server_state, app_state, _loop",
    HttpToolsProtocol.connection_made: "self, transport",
    HttpToolsProtocol.connection_lost: "self, exc",
    HttpToolsProtocol.data_received: "self, data",
    HttpToolsProtocol.on_message_begin: "self",
    HttpToolsProtocol.on_headers_complete: "self",
    HttpToolsProtocol.on_body: "self, body",
    HttpToolsProtocol.on_message_complete: "self",
    HttpToolsProtocol.on_response_complete: "self",
    HttpToolsProtocol.shutdown: "self",
    HttpToolsProtocol._start_asgi_task: "self, cycle, app",
    HttpToolsProtocol._get_upgrade: "self",
    RequestResponseCycle.receive: "self",
    RequestResponseCycle.send: "self, message",
    FlowControl.pause_reading: "self",
    FlowControl.resume_reading: "self",
    uvicorn.Server.startup: "self, sockets",
    uvicorn.Server.shutdown: "self, sockets",
    uvicorn.Server.on_tick: "self, counter",
    uvicorn.Server.handle_exit: "self, sig, frame",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signature(function: Callable[..., Any]) -> None:
    assert ", ".join(inspect.signature(function).parameters) == SIGNATURES[function]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.written += b"<pause>"

    def resume_reading(self) -> None:
        self.written += b"<resume>"

    def close(self) -> None:
        self.written += b"<close>"


def test_a_request_has_the_attributes_that_are_read_and_set() -> None:
    async def check() -> None:
        config = uvicorn.Config(_app, log_config=None, date_header=False, ws="none")
        server = uvicorn.Server(config)
        await asyncio.sleep(0)
        protocol = HttpToolsProtocol(config, server.server_state, {})
        transport = _Transport()
        protocol.connection_made(transport)
        assert protocol in server.server_state.connections
        assert protocol.cycle is None and not protocol.pipeline and not protocol.flow.read_paused
        protocol.data_received(b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        cycle = protocol.cycle
        assert (protocol.url, protocol.headers[0]) == (b"/a?b", (b"host", b"x"))
        assert (cycle.more_body, cycle.disconnected, cycle.response_started) == (True, False, False)
        assert (cycle.chunked_encoding, cycle.expected_content_length) == (None, 0)
        assert (cycle.keep_alive, cycle.response_complete) == (True, False)
        assert len(server.server_state.tasks) == 1
        cycle.keep_alive = False
        protocol.data_received(b"bGET /c HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not cycle.more_body and protocol.flow.read_paused
        ((second, app),) = protocol.pipeline
        assert second is protocol.cycle and app is protocol.app
        await asyncio.wait(server.server_state.tasks)
        assert cycle.response_complete and cycle.message_event.is_set()
        assert STATUS_LINE[204] in transport.written
        assert b"connection: close\r\n" in transport.written
        # It is closed first, and then the next request begins: so `keep_alive` is set again before.
        assert b"<close>" in transport.written and not protocol.pipeline

    asyncio.run(asyncio.wait_for(check(), 10))


def test_default_headers_are_made_anew_of_the_configuration() -> None:
    async def check() -> None:
        config = uvicorn.Config(_app, log_config=None, ws="none")
        config.load()
        server = uvicorn.Server(config)
        assert isinstance(server.server_state, ServerState)
        config.encoded_headers.append((b"connection", b"close"))
        assert not await server.on_tick(0)
        assert (b"connection", b"close") in server.server_state.default_headers
        server.should_exit = True
        assert await server.on_tick(1)

    asyncio.run(check())


def test_the_parser_stops_at_an_upgrade_with_the_body_before_it() -> None:
    class Events:
        def on_headers_complete(self) -> None:
            assert parser.should_upgrade()

    parser = httptools.HttpRequestParser(Events())
    head = b"POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as stopped:
        parser.feed_data(head + b"body")
    assert stopped.value.args[0] == len(head)


def test_what_a_callback_raises_is_the_context_of_the_parsers_error() -> None:
    class Events:
        def on_url(self, url: bytes) -> None:
            raise KeyError(url)

    with pytest.raises(httptools.HttpParserError) as caught:
        httptools.HttpRequestParser(Events()).feed_data(b"GET /x HTTP/1.1\r\n")
    assert isinstance(caught.value.__context__, KeyError)
