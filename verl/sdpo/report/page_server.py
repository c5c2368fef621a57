"""Serve the page of runs in progress to this machine: built at every request, reloaded after every logged step."""

from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from verl.sdpo.report.page import build
from verl.sdpo.runs.reader import Run, methods

HOST = "127.0.0.1"

ReadRuns = Callable[[], Sequence[Run]]


def stamp(runs: Sequence[Run]) -> str:
    """Return a text that changes when a run logs another step."""
    return " ".join(str(file.stat().st_size) for run in runs for file in run.metrics_files)


def make_server(read: ReadRuns, port: int) -> ThreadingHTTPServer:
    """Return a server of the page at `/` and of its stamp at `/stamp`; port 0 takes any that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/":
                runs = read()
                # Before the page is built, so that it is reloaded after a step that is logged meanwhile.
                now = stamp(runs)
                self._answer(build(methods(runs), stamp=now), "text/html")
            elif path == "/stamp":
                self._answer(stamp(read()), "text/plain")
            else:
                self.send_error(404)

        def _answer(self, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args) -> None:
            """Log nothing: a line per request would hide the address."""

    return ThreadingHTTPServer((HOST, port), Handler)


def serve(read: ReadRuns, port: int) -> None:
    """Serve until interrupted.

    Raises:
        FileNotFoundError: a folder holds no run.
    """
    read()
    with make_server(read, port) as server:
        print(
            f"http://{HOST}:{server.server_port}/ follows the runs; Ctrl-C ends it. Over ssh: -L {port}:{HOST}:{port}"
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
