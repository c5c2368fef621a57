"""Fork servers for the tests: one per level, and the folder that programs must not touch."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from verl.utils.reward_score.feedback.sandbox import Level
from verl.utils.reward_score.feedback.sandbox.fork_server import ForkServer, Layers


class Lease:
    """A fork server for run_job that counts the servers it had to replace."""

    def __init__(self, layers: Layers):
        self.layers = layers
        self.current = ForkServer(layers)
        self.discarded = 0

    def server(self) -> ForkServer:
        return self.current

    def discard(self) -> None:
        self.current.end()
        self.discarded += 1
        self.current = ForkServer(self.layers)


@pytest.fixture(scope="session", params=list(Level), ids=lambda level: level.name)
def level(request: pytest.FixtureRequest) -> Level:
    return request.param


@pytest.fixture(scope="session")
def lease(level: Level) -> Iterator[Lease]:
    lease = Lease(Layers.up_to(level))
    yield lease
    lease.current.end()


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `secret` in it, and a token in the environment."""
    (tmp_path / "secret").write_text("EXPECTED-MARKER")
    (tmp_path / "unlink").write_text("")
    os.chmod(tmp_path / "secret", 0o644)
    monkeypatch.setenv("HF_TOKEN", "EXPECTED-MARKER")
    return tmp_path


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """The port of an HTTP server that programs must not reach."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def snapshot(folder: Path) -> dict[str, tuple[int, int, float, bytes]]:
    """Return names, modes, owners, times and contents below a folder."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime, content)
    return found


def children_of(pid: int) -> list[str]:
    """Return the pids of the living and the dead-but-unreaped children of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
