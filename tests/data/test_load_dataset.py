import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data import load_dataset
from data.load_dataset import main
from data.records import DataError

from .conftest import script
from .hub import GSM8K, livecodebench_row


def load(name: str, path, *options: str) -> list[dict]:
    main(["--dataset-name", name, "--output-path", str(path), *options])
    return json.loads(path.read_text())


@pytest.fixture
def gsm8k(hub):
    return "--source", str(hub / "openai/gsm8k")


def test_a_slice_keeps_the_numbers_of_the_whole(tmp_path, gsm8k):
    records = load("openai/gsm8k", tmp_path / "new" / "x.json", *gsm8k, "--start-idx", "1", "--num-el", "1")
    assert [(record["idx"], record["answer"]) for record in records] == [(1, "-5")]


def test_the_file_is_an_array_with_a_record_per_line(tmp_path, gsm8k):
    load("openai/gsm8k", tmp_path / "x.json", *gsm8k)
    lines = (tmp_path / "x.json").read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("[", "]", 5)
    assert lines[1].startswith('  {"idx":0,') and lines[1].endswith("},")


def test_rows_left_out_are_reported(tmp_path, hub, capsys):
    load("lasgroup/verifiable-corpus", tmp_path / "x.json", "--source", str(hub / "lasgroup/verifiable-corpus"))
    assert "left out 1 rows of kind verifier" in capsys.readouterr().out


def test_another_number_of_records_than_the_table_says_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(load_dataset, "open_rows", lambda entry, **_: GSM8K)
    load("openai/gsm8k", tmp_path / "x.json")
    assert "warning: 1319 records were expected" in capsys.readouterr().out
    load("openai/gsm8k", tmp_path / "x.json", "--num-el", "2")
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset-name", "nope"], "unknown dataset 'nope'; known are: Biology, Chemistry,"),
        (["--dataset-name", "Biology", "--category", "x"], "'Biology' has no categories"),
        (["--dataset-name", "tooluse"], "'tooluse' is not on the hub: give a copy of a file of https://github.com/"),
        (["--dataset-name", "tooluse", "--source", "gone"], "gone does not exist"),
        (["--dataset-name", "Biology", "--source", "gone"], "--source gone is not a folder"),
        (["--dataset-name", "openai/gsm8k", "--source", "EMPTY"], "cannot read the local copy"),
        (["--dataset-name", "openai/gsm8k", "--source", "GSM8K", "--start-idx", "9"], "nothing was written"),
        (["--dataset-name", "openai/gsm8k"], "cannot load the hub's dataset openai/gsm8k (revision cc7b047b"),
        (["--dataset-name", "Qwen/CodeElo"], "cannot load the hub's dataset Qwen/CodeElo (revision newest)"),
        (["--dataset-name", "livecodebench/code_generation_lite-v6"], "or download it elsewhere"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence_and_no_file(tmp_path, hub, options, message):
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "GSM8K": str(hub / "openai/gsm8k")}
    output = tmp_path / "out.json"
    with pytest.raises(DataError) as error:
        main([*(places.get(option, option) for option in options), "--output-path", str(output)])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_changed_layout_is_named(tmp_path, hub):
    folder = tmp_path / "copy"
    folder.mkdir()
    row = livecodebench_row(0, date="2025-03-01")
    del row["starter_code"]
    (folder / "test6.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="row 0: no column 'starter_code'; has the layout changed"):
        load("livecodebench/code_generation_lite-v6", tmp_path / "x.json", "--source", str(folder))
    assert not list(tmp_path.glob("x.json*"))


@pytest.fixture
def gated_hub():
    """A server that answers like the hub does for a gated dataset; yields its address and the paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_a_gated_dataset_says_how_to_get_access_and_asks_for_the_revision(tmp_path, gated_hub):
    address, asked = gated_hub
    online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    options = ("--dataset-name", "Idavidrein/gpqa-D", "--output-path", "gpqa.json")
    pinned = script("load_dataset.py", *options, cwd=tmp_path, **online)
    assert pinned.returncode == 1 and "Traceback" not in pinned.stderr
    assert "it is gated. Ask for access at https://huggingface.co/datasets/Idavidrein/gpqa" in pinned.stderr
    assert any("/633f5ee89ab8ad4522a9f850766b73f62147ffdd/" in path for path in asked)
    script("load_dataset.py", *options, "--revision", "other", cwd=tmp_path, **online)
    assert any("/resolve/other/" in path for path in asked)
    assert not list(tmp_path.glob("gpqa*"))
