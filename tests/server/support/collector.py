"""OpenTelemetry collectors for tests: what they are sent by HTTP or gRPC lands in queues."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc


@dataclass
class Collected:
    """What has been sent so far."""

    traces: Queue[traces.ExportTraceServiceRequest] = field(default_factory=Queue)


@contextlib.contextmanager
def http_collector(collected: Collected) -> Iterator[str]:
    """A collector by HTTP; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collected.traces.put(traces.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def grpc_collector(collected: Collected) -> Iterator[str]:
    """A collector by gRPC; its address."""

    class Traces(traces_grpc.TraceServiceServicer):
        def Export(self, request: Any, _: grpc.ServicerContext) -> Any:  # noqa: N802
            collected.traces.put(request)
            return traces.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    traces_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
