"""Traces of requests by OpenTelemetry (https://opentelemetry.io), if OTEL_… is set.

Without an endpoint in the environment its SDK is not imported, and no request pays for it. With
one, each request is a span of the trace that its `traceparent` names (W3C Trace Context); what it
asks of PostgREST and of the database are spans below it.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "flows-gateway"
SERVER_ERROR = 500
# Of a request, so that its head has no more than one trace.
TRACE_HEADERS = (b"traceparent", b"tracestate")

Attributes = Mapping[str, str | int]


class RequestTrace:
    """The span of a request; `child` begins another below it."""

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        self._tracer = tracer
        self._span = span

    @contextmanager
    def child(self, name: str, attributes: Attributes) -> Iterator[str]:
        """Record what is done meanwhile as a span; yield its `traceparent`."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        with self._tracer.start_as_current_span(
            name,
            context=set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes=dict(attributes),
        ) as span:
            yield _traceparent(span)

    def end(self, name: str, status: int, attributes: Attributes) -> None:
        """End the request's span, under the template of its path, with its status."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes({"http.response.status_code": status, **attributes})
        if status >= SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


_current: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)


def child_span(name: str, attributes: Attributes) -> AbstractContextManager[str | None]:
    """Return a span below the present request's, as a context manager of its `traceparent`.

    It is of None where requests are not traced.
    """
    trace = _current.get()
    return nullcontext() if trace is None else trace.child(name, attributes)


class Tracing:
    """The traces of one gateway process; `open` it to send them, if the environment says where."""

    def __init__(self) -> None:
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    def open(self) -> None:
        """Begin to trace, if OTEL_… says so; SystemExit if OpenTelemetry is not installed.

        Endpoint, headers, sampler, batches and resource are settings of OpenTelemetry's own.
        """
        if not wanted(os.environ):
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise SystemExit(
                "OTEL_… asks for traces: pip install 'flows-gateway[otel]', or unset it"
            ) from None
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE)

    async def close(self) -> None:
        """Send the last spans, if the receiver takes them."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)

    def begin(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> RequestTrace | None:
        """Begin the span of a request; None where requests are not traced."""
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        given = {
            name.decode(): value.decode("latin-1")
            for name, value in headers
            if name in TRACE_HEADERS
        }
        span = self._tracer.start_span(
            method,
            context=TraceContextTextMapPropagator().extract(given),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        trace = RequestTrace(self._tracer, span)
        _current.set(trace)
        return trace


def wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environ.get(name) for name in ENDPOINTS)


def _traceparent(span: "Span") -> str:
    """Return the `traceparent` of a span (W3C Trace Context §3.2)."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
