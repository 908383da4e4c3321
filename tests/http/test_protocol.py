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

from app.http.protocol import LINGER_BYTES, guarded_protocol
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
        ("timeout_keep_alive_handler", "(self)"),
    ],
)
def test_the_methods_that_are_overridden_are_called_as_before(method: str, signature: str) -> None:
    found = inspect.signature(getattr(HttpToolsProtocol, method))
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    assert str(inspect.Signature(plain)) == signature


def test_the_cycle_is_made_and_used_as_before() -> None:
    made = set(inspect.signature(RequestResponseCycle).parameters)
    assert made == {"scope", "transport", "flow", "logger", "access_logger", "access_log",
                    "default_headers", "message_event", "expect_100_continue", "keep_alive",
                    "on_response"}  # fmt: skip
    cycle = inspect.getsource(RequestResponseCycle)
    for name in ("disconnected", "keep_alive", "response_started", "response_complete",
                 "waiting_for_100_continue", "expected_content_length"):  # fmt: skip
        assert f"self.{name}" in cycle
    assert not any(f"self.{name}" in cycle for name in ("_head", "_begin", "_write"))


def test_no_name_of_ours_is_one_of_uvicorns() -> None:
    ours = {"logs_requests", "max_url_bytes", "max_header_bytes", "head_seconds",
            "min_bytes_per_second", "rate_seconds", "_refusal", "_refuse", "_refuse_head",
            "_answer_refused",
            "_head_bytes", "_in_head", "_in_body", "_leftover_bytes", "_half_closed", "_frames",
            "_head_timer", "_gone_timer", "_wire", "_delivery", "_try_client",
            "_start_head_timer", "_cancel_head_timer"}  # fmt: skip
    theirs = dir(HttpToolsProtocol) + [
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(HttpToolsProtocol)))
        if isinstance(node, ast.Attribute)
    ]
    assert ours.isdisjoint(theirs)


def test_uvicorn_uses_no_other_method_of_its_transport() -> None:
    """`ClientTransport` counts what is written, so it has to know every way to write."""
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

    (_, first), (_, second), *rest = asyncio.run(run())
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 431 ")
    assert rest == [("eof", b"")]


@pytest.mark.parametrize(
    ("name", "value"), [(b"x", b"1\r\ny: 2"), (b"x", b"\0"), (b"x", b"1\n"), (b"x\r", b"1")]
)
def test_a_header_cannot_end_its_line(name: bytes, value: bytes) -> None:
    async def split(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        headers = [(name, value), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async def run() -> list[tuple[str, bytes]]:
        protocol, wire = connected(split)
        protocol.data_received(HEAD)
        await asyncio.sleep(0.01)
        protocol.connection_lost(None)
        return wire.calls

    assert not [sent for _, sent in asyncio.run(run()) if sent]


@pytest.mark.parametrize(
    ("bodies", "sent"),
    [
        ([b"ab", b"", b"c"], [b"\r\n\r\n2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"]),
        ([b"", b"ab", b""], [b"\r\n\r\n", b"2\r\nab\r\n", b"0\r\n\r\n"]),
    ],
)
def test_a_body_of_unknown_length_is_sent_as_it_comes(
    bodies: list[bytes], sent: list[bytes]
) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, body in enumerate(bodies, 1):
            more = number < len(bodies)
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def run() -> list[bytes]:
        protocol, wire = connected(stream)
        protocol.data_received(HEAD)
        await asyncio.sleep(0.01)
        protocol.connection_lost(None)
        return [written for _, written in wire.calls if written]

    first, *rest = asyncio.run(run())
    assert b"\r\ntransfer-encoding: chunked\r\n\r\n" in first
    assert [b"\r\n\r\n" + first.partition(b"\r\n\r\n")[2], *rest] == sent


@pytest.mark.parametrize("body", [b"o", b"okay"])
def test_a_body_of_another_length_than_said_is_broken_off(body: bytes) -> None:
    async def lie(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def run() -> list[str]:
        protocol, wire = connected(lie)
        protocol.data_received(HEAD)
        await asyncio.sleep(0.01)
        calls = [call for call, _ in wire.calls]
        protocol.connection_lost(None)
        return calls

    assert asyncio.run(run()) == ["close"]
