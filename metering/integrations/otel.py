"""The tenant on every OpenTelemetry span that starts while one is set.

Enters: spans as they start. Leaves: the same spans with the attribute `tenant.id`. Refuses: to read the tenant from baggage
or from any other part of the trace's context: those come from the caller. Needs opentelemetry-sdk; nothing else of metering
imports this module.

Without it, `with tenant(...)` and the middlewares already put the tenant on the span that is current when they begin, as
soon as the application has loaded OpenTelemetry. This processor adds the spans that start inside. Spans never bill: they
are sampled. They are what a disputed invoice line can be looked up in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

from metering.context import SPAN_ATTRIBUTE, current_tenant

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span


class TenantSpanProcessor(SpanProcessor):
    """Put the current tenant on each span as it starts: `provider.add_span_processor(TenantSpanProcessor())`."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Set `tenant.id`, if there is a tenant and the span has none yet."""
        name = current_tenant()
        if name is not None and SPAN_ATTRIBUTE not in (span.attributes or {}):
            span.set_attribute(SPAN_ATTRIBUTE, name)
