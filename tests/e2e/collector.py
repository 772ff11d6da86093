"""A collector of traces, for OTLP over HTTP, that keeps every span that it receives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(ThreadingHTTPServer):
    """Use `running_collector`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a stack send its traces here."""
        url = f"http://127.0.0.1:{self.server_address[1]}/v1/traces"
        return {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}

    def of_trace(self, trace_id: str) -> list[Any]:
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.spans += [
            span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def attributes(span: Any) -> dict[str, str]:
    """Attributes that are text."""
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


@contextmanager
def running_collector() -> Iterator[Collector]:
    collector = Collector()
    threading.Thread(target=collector.serve_forever, name="collector", daemon=True).start()
    try:
        yield collector
    finally:
        collector.shutdown()
