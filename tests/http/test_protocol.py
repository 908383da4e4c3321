"""The server's protocol, and the internals of uvicorn it uses: their changes fail here first."""

import ast
import asyncio
import inspect
from collections.abc import Callable
from importlib.metadata import requires
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.http.protocol import (
    GATHER_BELOW_BYTES,
    LINGER_BYTES,
    GatheringTransport,
    guarded_protocol,
)
from app.settings import HttpSettings

HEAD = b"GET /live HTTP/1.1\r\nHost: gateway\r\n\r\n"
LIMITS = HttpSettings(max_url_bytes=100, max_header_bytes=100, head_seconds=0.05)


def test_the_pinned_uvicorn_is_the_one_that_is_tested() -> None:
    assert f"uvicorn=={uvicorn.__version__}" in (requires("flows-gateway") or [])


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("__init__", "(self, config, server_state, app_state, _loop=None)"),
        ("connection_made", "(self, transport)"),
        ("connection_lost", "(self, exc)"),
        ("data_received", "(self, data)"),
        ("on_message_begin", "(self)"),
        ("on_headers_complete", "(self)"),
        ("on_header", "(self, name, value)"),
        ("on_message_complete", "(self)"),
        ("on_response_complete", "(self)"),
        ("eof_received", "(self)"),
        ("send_400_response", "(self, msg)"),
        ("pause_writing", "(self)"),
        ("resume_writing", "(self)"),
    ],
)
def test_the_methods_that_are_overridden_are_called_as_before(method: str, signature: str) -> None:
    found = inspect.signature(getattr(HttpToolsProtocol, method))
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    assert str(inspect.Signature(plain)) == signature


def test_no_name_of_ours_is_one_of_uvicorns() -> None:
    ours = {"logs_requests", "max_url_bytes", "max_header_bytes", "head_seconds",
            "min_bytes_per_second", "rate_seconds", "_refusal", "_refuse", "_refuse_head",
            "_answer_refused",
            "_head_bytes", "_in_head", "_in_body", "_leftover_bytes", "_half_closed", "_frames",
            "_head_timer", "_gone_timer", "_gathering", "_delivery", "_try_client",
            "_start_head_timer", "_cancel_head_timer"}  # fmt: skip
    theirs = dir(HttpToolsProtocol) + [
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(HttpToolsProtocol)))
        if isinstance(node, ast.Attribute)
    ]
    assert ours.isdisjoint(theirs)


def test_uvicorn_uses_no_other_method_of_its_transport() -> None:
    """`GatheringTransport` delays `write`, so any other way to send would overtake it."""
    used = {
        node.attr
        for module in (httptools_impl, flow_control)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in ("transport", "_transport")
    }
    assert used == {"write", "close", "is_closing", "set_protocol", "pause_reading",
                    "resume_reading"}  # fmt: skip
    source = inspect.getsource(HttpToolsProtocol.connection_made)
    assert "self.transport = transport" in source
    assert "FlowControl(transport)" in source
    assert "transport=self.transport" in inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert "self.transport.write" in inspect.getsource(RequestResponseCycle.send)


class Wire(asyncio.Transport):
    """A transport that records all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, bytes]] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def writelines(self, list_of_data: Any) -> None:
        self.calls.append(("write", b"".join(list_of_data)))

    def is_closing(self) -> bool:
        return bool(self.calls) and self.calls[-1][0] in ("close", "abort")

    def write_eof(self) -> None:
        self.calls.append(("eof", b""))

    def resume_reading(self) -> None:
        self.calls.append(("read", b""))

    def close(self) -> None:
        self.calls.append(("close", b""))

    def abort(self) -> None:
        self.calls.append(("abort", b""))


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer like the gateway, with head and body, and keep the scope for the test."""
    del receive
    scope["app"] = answer
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def connected(
    app: Callable[..., Any] = answer, limits: HttpSettings = LIMITS
) -> tuple[HttpToolsProtocol, Wire]:
    """Return a protocol with a new connection, and the transport below it."""
    config = uvicorn.Config(app, http=guarded_protocol(limits), ws="none", log_config=None)
    config.load()
    protocol = guarded_protocol(limits)(config, ServerState(), app_state={"kept": 1})
    wire = Wire()
    protocol.connection_made(wire)
    return protocol, wire


def test_head_and_body_of_a_response_are_one_write() -> None:
    async def run() -> list[tuple[str, bytes]]:
        protocol, wire = connected()
        protocol.data_received(HEAD)
        await asyncio.sleep(0.1)  # longer than a head may take: its timer is gone
        return wire.calls

    [(call, sent)] = asyncio.run(run())
    assert call == "write"
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert sent.endswith(b"\r\n\r\nok")


def test_a_request_can_abort_its_connection() -> None:
    async def leave(scope: Any, receive: Any, send: Any) -> None:
        await answer(scope, receive, send)
        assert scope["state"]["kept"] == 1
        scope["state"]["abort"]()

    async def run() -> str:
        protocol, wire = connected(leave)
        protocol.data_received(HEAD)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return wire.calls[-1][0]

    assert asyncio.run(run()) == "abort"


@pytest.mark.parametrize("received", [[], [b"GET / HTTP/1.1\r\nX: "], [HEAD, b"GET / HT"]])
def test_a_head_that_takes_too_long_is_aborted(received: list[bytes]) -> None:
    async def run() -> str:
        protocol, wire = connected()
        for data in received:
            protocol.data_received(data)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        return wire.calls[-1][0]

    assert asyncio.run(run()) == "abort"


def test_a_head_that_grows_is_refused_and_read_for_a_while_and_one_after_another_is_not() -> None:
    async def run(*received: bytes) -> list[tuple[str, bytes]]:
        protocol, wire = connected(limits=LIMITS.model_copy(update={"head_seconds": 60.0}))
        for data in received:
            protocol.data_received(data)
            await asyncio.sleep(0.01)
        calls = [*wire.calls]
        protocol.connection_lost(None)
        return calls

    growing = [b"GET / HTTP/1.1\r\nX: ", *[b"x" * 50] * 5]
    (call, sent), *rest = asyncio.run(run(*growing))
    assert call == "write"
    assert sent.startswith(b"HTTP/1.1 431 ")
    assert rest == [("eof", b"")]
    ended = asyncio.run(run(*growing, b"x" * LINGER_BYTES))
    assert [call for call, _ in ended] == ["write", "eof", "abort"]
    assert [call for call, _ in asyncio.run(run(*[HEAD] * 10))] == ["write"] * 10


def test_a_client_that_goes_on_after_a_refusal_is_read_from_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.http.protocol.LINGER_SECONDS", 0.02)

    async def run() -> list[str]:
        protocol, wire = connected()
        protocol.data_received(b"no HTTP\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.01)
            protocol.data_received(b"x")
        return [call for call, _ in wire.calls]

    assert asyncio.run(run()) == ["write", "eof", "abort"]


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    proceed: list[asyncio.Event] = []

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        proceed.append(asyncio.Event())
        await proceed[-1].wait()
        await answer(scope, receive, send)

    async def run() -> list[tuple[str, bytes]]:
        protocol, wire = connected(wait)
        protocol.data_received(HEAD + b"GET / HTTP/1.1\r\nX: " + b"x" * 300)
        await asyncio.sleep(0)
        assert wire.calls == []
        proceed[0].set()
        await asyncio.sleep(0.01)
        calls = [*wire.calls]
        protocol.connection_lost(None)
        return calls

    (_, sent), *rest = asyncio.run(run())
    first, second = sent.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert second.startswith(b"431 ")
    assert rest == [("eof", b"")]


def test_a_long_write_and_a_close_send_what_was_held_first() -> None:
    async def run() -> list[tuple[str, bytes]]:
        wire = Wire()
        transport = GatheringTransport(wire, asyncio.get_running_loop())
        transport.write(b"a")
        transport.write(b"b" * GATHER_BELOW_BYTES)
        transport.write(b"c")
        transport.close()
        await asyncio.sleep(0)
        return wire.calls

    long, last, closed = asyncio.run(run())
    assert long == ("write", b"a" + b"b" * GATHER_BELOW_BYTES)
    assert (last, closed[0]) == (("write", b"c"), "close")
