"""The page of a run in progress."""

import json
import threading
import urllib.request

import pytest

from tests.sdpo.report.browser import CHROMIUM, Page
from tests.sdpo.report.synthetic import make_run
from verl.sdpo.report.page_server import make_server
from verl.sdpo.runs.reader import Run


@pytest.fixture
def served(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    with make_server(lambda: [Run(run)], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield run, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def go_on(run, step):
    """As a training that has just finished a step, and is writing the next line."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "data": {"critic/score/mean": 0.5}}) + '\n{"step": 99, "da')


def test_the_server_listens_to_this_machine_alone_and_serves_nothing_else(served):
    _, address = served
    with make_server(list, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/run.json")


def test_the_stamp_changes_with_the_run(served):
    run, address = served
    before = urllib.request.urlopen(f"{address}/stamp").read()
    assert urllib.request.urlopen(f"{address}/stamp").read() == before
    go_on(run, 3)
    assert urllib.request.urlopen(f"{address}/stamp").read() != before


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt install chromium)")
def test_the_page_follows_the_run_and_keeps_its_place(served):
    run, address = served
    with Page(address) as page:
        page.press("p")
        assert page.run("[step.value, document.querySelectorAll('#runs td')[3].textContent]") == ["1", "2 of 2"]
        go_on(run, 3)
        page.wait_for(
            "document.querySelectorAll('#runs td')[3]?.textContent === '3 of 2' && !!document.body.dataset.ready"
        )
        assert page.run("step.value") == "1"
        assert page.errors == []
