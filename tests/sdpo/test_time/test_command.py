"""The command lines, with a server that speaks OpenAI's protocol in place of vLLM."""

import json
import runpy
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e import tiny
from tests.sdpo.test_time.fakes import QUESTION, write_question
from verl.sdpo.test_time.log import read_log

REPOSITORY = Path(__file__).parents[3]
GRADER = "from tests.sdpo.test_time.fakes import reward_function as compute_score\n"


class Server(BaseHTTPRequestHandler):
    """Answers `wrong`, from the fourth request on `right`; remembers what it was asked."""

    requests: list

    def do_POST(self):
        self.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        text, reason = ("wrong", "length") if len(self.requests) < 4 else ("right", "stop")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
        http.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def command(tmp_path, model, server, monkeypatch, capsys):
    """`command(script, *flags)` runs it in this process and returns its output."""
    (tmp_path / "grader.py").write_text(GRADER)
    folder = write_question(tmp_path / "q_7")
    monkeypatch.setenv("OPENAI_API_KEY", "none")

    def run(script, *flags):
        common = [f"--data-dir={folder}", f"--output-dir={tmp_path}", "--run-name=run", f"--server={server}"]
        model_flags = ["--model=served", f"--tokenizer={model}", f"--reward={tmp_path / 'grader.py'}"]
        monkeypatch.setattr(sys, "argv", [script, *common, *model_flags, *flags])
        runpy.run_path(str(REPOSITORY / "baseline_multiturn" / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def log_of(tmp_path):
    return read_log(tmp_path / "run.attempts.jsonl")


def test_multi_turn_until_it_is_solved(command, tmp_path):
    output = command("multiturn.py", "--max-response=3", "--temperature=0.7")
    config, records = log_of(tmp_path)
    assert (config["method"], config["question_id"], config["template"]) == ("multi_turn", "q_7", "feedback_only")
    assert [record["confirmed"] for record in records] == [False, False, False, True]
    assert "SOLVED by attempt 4" in output
    first, second, *_ = Server.requests
    assert first["messages"] == QUESTION.messages
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("served", 0.7, 3)
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert "wrong (cut) fails public tests" in second["messages"][0]["content"]
    assert first["seed"] != second["seed"]


def test_prompt_tokens_are_those_of_the_chat_template(command, tmp_path):
    """Bytes are tokens of the tiny model; its markup `<|start|>`, `<|end|>` is one token each."""
    command("multiturn.py", "--budget=1")
    _, (record,) = log_of(tmp_path)
    assert record["prompt_tokens"] == len("user\nWhat is it?\n") + 2 + len("assistant\n") + 1
    assert record["response_tokens"] == 3


def test_a_context_that_counts_tokens_of_the_template_is_refused_when_too_short(command):
    with pytest.raises(ValueError, match="alone has 30 tokens with the chat template, more than --max-context 29"):
        command("multiturn.py", "--max-context=29")


def test_best_of_k_goes_on_where_it_stopped_and_then_has_nothing_to_do(command, tmp_path):
    command("best_of_k.py", "--batch=2", "--budget=3")
    assert len(log_of(tmp_path)[1]) == 3
    assert "not solved within the budget of 3" in command("best_of_k.py", "--batch=3", "--budget=3")
    assert len(Server.requests) == 3
    assert len({request["seed"] for request in Server.requests}) == 3


def test_a_pool_says_so_in_its_header_and_an_ordinary_search_does_not(command, tmp_path):
    assert "3 of 6 attempts confirmed" in command(
        "best_of_k.py", "--batch=1", "--budget=6", "--pool", "--run-name=pool"
    )
    assert read_log(tmp_path / "pool.attempts.jsonl")[0]["pool"] is True
    command("best_of_k.py", "--batch=1", "--budget=1")
    assert "pool" not in log_of(tmp_path)[0]


def test_another_seed_does_not_continue_the_log(command):
    command("best_of_k.py", "--budget=1")
    with pytest.raises(ValueError, match="begun differently: seed was 0, now 1"):
        command("best_of_k.py", "--budget=1", "--seed=1")


def test_a_data_source_without_grader_stops_before_the_engine(command):
    with pytest.raises(ValueError, match="No grader for data_source 'tiny'"):
        command("multiturn.py", "--reward=pkg://verl.utils.reward_score.feedback")
    assert Server.requests == []


@pytest.mark.parametrize("script", ["multiturn.py", "best_of_k.py"])
def test_the_doors_open_from_any_folder(tmp_path, script):
    command = [sys.executable, REPOSITORY / "baseline_multiturn" / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}")


def test_attempts_reach_the_trackers(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tensorboard"))
    command("multiturn.py", "--budget=2", "--logger", "tensorboard")
    assert list((tmp_path / "tensorboard").rglob("events.*"))
