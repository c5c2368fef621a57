"""The page of runs in progress, on the loopback: made anew at every request, and asked for when the runs went on."""

from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from verl.sdpo.report.page import build
from verl.sdpo.runs.reader import Run, methods

HOST = "127.0.0.1"


def stamp(folders: Sequence[Path]) -> str:
    """Changes when a run logs another step."""
    files = [file for folder in folders for file in Run(folder).metrics_files]
    return " ".join(str(file.stat().st_size) for file in files)


def make_server(folders: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """Serves the page at `/` and its stamp at `/stamp`; port 0 takes any that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/":
                # Before the page is made: what is logged meanwhile makes the page come again.
                now = stamp(folders)
                self._answer(build(methods([Run(folder) for folder in folders]), stamp=now), "text/html")
            elif path == "/stamp":
                self._answer(stamp(folders), "text/plain")
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
            """A line per request helps nobody."""

    return ThreadingHTTPServer((HOST, port), Handler)


def watch(folders: Sequence[Path], port: int) -> None:
    """Serve until interrupted.

    Raises:
        FileNotFoundError: when a folder holds no run.
    """
    stamp(folders)
    with make_server(folders, port) as server:
        print(
            f"http://{HOST}:{server.server_port}/ follows the runs; Ctrl-C ends it. Over ssh: -L {port}:{HOST}:{port}"
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
