"""The tenant on OpenTelemetry spans: there when there is a span, free when there is none, never the other way round."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Tracer

from metering.context import current_tenant, required_tenant, tenant
from metering.errors import BadEvent
from metering.integrations import asgi, wsgi
from metering.integrations.otel import TenantSpanProcessor


class Tracing:
    """A real tracer whose spans can be read back."""

    def __init__(self, *, with_processor: bool = False, **options: Any) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, **options)
        if with_processor:
            provider.add_span_processor(TenantSpanProcessor())
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer: Tracer = provider.get_tracer("tests")

    def tenants(self) -> dict[str, object]:
        return {span.name: (span.attributes or {}).get("tenant.id") for span in self._kept.get_finished_spans()}


def test_a_span_gets_the_first_tenant_that_is_set_while_it_is_current_and_keeps_it() -> None:
    tracing = Tracing()
    with tracing.tracer.start_as_current_span("request"), tenant("acme"):
        with tenant("globex"), tracing.tracer.start_as_current_span("inside"):
            pass
        with tracing.tracer.start_as_current_span("nested"), tenant("globex"):
            pass
    with tracing.tracer.start_as_current_span("nobody's"), tenant(None):
        pass
    assert tracing.tenants() == {"request": "acme", "inside": None, "nested": "globex", "nobody's": None}


def test_the_processor_marks_spans_that_start_inside() -> None:
    tracing = Tracing(with_processor=True)
    with tracing.tracer.start_as_current_span("outside"):
        pass
    with tenant("acme"):
        with tracing.tracer.start_as_current_span("inside"):
            pass
        with tracing.tracer.start_as_current_span("said already", attributes={"tenant.id": "globex"}):
            pass
    assert tracing.tenants() == {"outside": None, "inside": "acme", "said already": "globex"}


def test_both_middlewares_mark_the_span_of_the_server() -> None:
    tracing = Tracing()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_tenant() == "acme"

    async def serve() -> None:
        with tracing.tracer.start_as_current_span("asgi"):
            await asgi.TenantMiddleware(app, resolver=lambda scope: "acme")({"type": "http"}, None, None)  # type: ignore[arg-type]

    asyncio.run(serve())
    with tracing.tracer.start_as_current_span("wsgi"):
        wsgi.TenantMiddleware(lambda environ, start: [], resolver=lambda environ: "acme")({}, lambda *_: None)  # type: ignore[arg-type,return-value]
    assert tracing.tenants() == {"asgi": "acme", "wsgi": "acme"}


def test_a_span_that_is_not_sampled_changes_nothing() -> None:
    tracing = Tracing(with_processor=True, sampler=ALWAYS_OFF)
    with tracing.tracer.start_as_current_span("request"), tenant("acme"):
        assert required_tenant() == "acme"
    assert tracing.tenants() == {}


def test_baggage_never_becomes_the_tenant() -> None:
    tracing = Tracing(with_processor=True)
    token = context.attach(baggage.set_baggage("tenant.id", "acme"))
    try:
        with tracing.tracer.start_as_current_span("request"), pytest.raises(BadEvent, match="no tenant is set"):
            required_tenant()
    finally:
        context.detach(token)
    assert tracing.tenants() == {"request": None}


def test_spans_are_marked_without_the_processor_and_without_an_sdk() -> None:
    # Only the API is loaded: its spans take the attribute and forget it.
    code = (
        "import sys, opentelemetry.trace\n"
        "from metering.context import tenant\n"
        "with tenant('acme'): pass\n"
        "print([name for name in ('opentelemetry.sdk', 'metering.integrations.otel') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
