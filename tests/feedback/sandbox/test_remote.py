"""The SandboxFusion backend against a stand-in for its server that runs what it gets in a plain interpreter."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from verl.utils.reward_score.feedback.sandbox import Job, SandboxUnavailable, Status, TestInput
from verl.utils.reward_score.feedback.sandbox.remote import run_job


class _Server(BaseHTTPRequestHandler):
    failures = 0

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self._broken() if _Server.failures else self._run(request)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def _broken(self) -> dict[str, Any]:
        _Server.failures -= 1
        return {"status": "SandboxError", "message": "no sandbox free"}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, "-I", "-S", "-c", request["code"]]
        try:
            done = subprocess.run(
                command, input=request["stdin"], capture_output=True, text=True, timeout=request["run_timeout"]
            )
        except subprocess.TimeoutExpired:
            return {"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}
        result = {"status": "Finished", "return_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        return {"status": "Failed" if done.returncode else "Success", "run_result": result}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/run_code"
    server.shutdown()
    server.server_close()


def _job(program: str, text: str = "", fn_name: str | None = None) -> Job:
    kind = "functional" if fn_name else "stdin"
    return Job(program, kind, (TestInput(text),), fn_name=fn_name, time_limit=2)  # type: ignore[arg-type]


def test_same_outcomes_as_the_local_sandbox(url: str) -> None:
    outcome = run_job(url, _job("print(int(input()) + gcd(2, 4))", "1\n"))[0]
    assert (outcome.status, outcome.stdout) == (Status.OK, "3\n")
    outcome = run_job(url, _job("class Solution:\n def f(self, a):\n  print('x')\n  return (a, {1: 2})", "[1]", "f"))[0]
    assert (outcome.status, outcome.result, outcome.stdout) == (Status.OK, (1, {1: 2}), "x\n")
    outcome = run_job(url, _job("x = 1\n1 / 0"))[0]
    assert (outcome.status, outcome.exception) == (Status.RUNTIME_ERROR, "ZeroDivisionError")
    assert outcome.frames[-1].line == 2
    assert run_job(url, _job("def f(:"))[0].status is Status.COMPILE_ERROR
    assert run_job(url, _job("while True: pass"))[0].status is Status.TIME_LIMIT
    assert run_job(url, _job("import os\nos._exit(0)", "[1]", "f"))[0].status is Status.RUNTIME_ERROR


def test_a_server_fault_is_retried_once_and_then_told(url: str) -> None:
    _Server.failures = 1
    assert run_job(url, _job("print(1)"))[0].status is Status.OK
    _Server.failures = 2
    outcome = run_job(url, _job("print(1)"))[0]
    assert outcome.status is Status.SANDBOX_ERROR and "no sandbox free" in outcome.message


def test_assertion_tests_are_refused(url: str) -> None:
    job = Job("def f(x): return x", "assert", (TestInput("assert f(1) == 1"),), fn_name="f")
    with pytest.raises(SandboxUnavailable, match="local sandbox"):
        run_job(url, job)
