"""Export traces where `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names an OpenTelemetry collector: Serve's span, with the engine's
in it.

vLLM has an argument for the endpoint (apps/llm/server.py); this is what Serve's part needs.
"""

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from apps.common.settings import otlp_over_http


def span_processors() -> list[Any]:
    """Span processors of each Serve process (`RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH`); the exporter knows the endpoint."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if otlp_over_http():
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return [BatchSpanProcessor(HttpExporter())]
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return [BatchSpanProcessor(OTLPSpanExporter())]


class Traced:
    """ASGI middleware that passes Serve's span (part of the client's) to the engine's server, in the header that it reads."""

    def __init__(self, app: ASGIApp) -> None:
        from opentelemetry.propagate import inject

        self._app, self._inject = app, inject

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            carrier: dict[str, str] = {}
            self._inject(carrier)
            added = [(name.encode(), value.encode()) for name, value in carrier.items()]
            scope = {
                **scope,
                "headers": [*(header for header in scope["headers"] if header[0].decode() not in carrier), *added],
            }
        await self._app(scope, receive, send)
