"""What of a service's work shows in OpenTelemetry's traces, and where do they go?

Requests are traced by the server itself, proposals here, whichever process makes them. Spans go where
`OTEL_EXPORTER_OTLP_ENDPOINT` says (OTLP over HTTP) if the extra `tracing` is installed; else they cost nothing. In a
program of the user's they go where that has told OpenTelemetry to send its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from opentelemetry import trace

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer = trace.get_tracer("hindsight")


def is_wanted() -> bool:
    """Whether the environment says where traces go."""
    return any(os.environ.get(name) for name in ENDPOINT_VARIABLES)


def is_installed() -> bool:
    """Whether the extra `tracing` is there."""
    try:
        return all(find_spec(f"opentelemetry.{name}") is not None for name in ("sdk", "exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # of a package above it
        return False


def send_traces() -> None:
    """Let this process send its spans, where they are wanted and can be sent."""
    if not is_wanted() or not is_installed():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def suggestion(study: str, trial: int) -> Iterator[None]:
    """The span of a proposal."""
    with _tracer.start_as_current_span("suggestion", attributes={"study": study, "trial": trial}):
        yield
