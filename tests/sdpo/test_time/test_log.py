import subprocess
import sys

import pytest

from tests.sdpo.test_time.fakes import without_time
from verl.sdpo.test_time.log import SUFFIX, AttemptLog, conclusion, read_log

CONFIG = {"question_id": "q_7", "budget": 3, "seed": 0}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / f"run{SUFFIX}"


def filled(path, count=3, **last):
    log = AttemptLog(path, CONFIG)
    for i in range(count):
        log.append(confirmed=False, response=f"r\u00e9ponse {i}\n")
    log.close()
    return log


def set_aside(path) -> list[bytes]:
    return path.with_name(f"{path.name}.set-aside").read_bytes().splitlines()


def test_attempts_are_numbered_and_come_back(path):
    written = filled(path)
    config, records = read_log(path)
    assert config == CONFIG
    assert records == written.records
    assert [record["attempt"] for record in records] == [1, 2, 3]


def test_left_counts_down_to_the_budget_and_is_zero_once_solved(path):
    log = AttemptLog(path, CONFIG)
    assert (log.left, log.solved) == (3, False)
    log.append(confirmed=False)
    assert log.left == 2
    log.append(confirmed=True)
    assert (log.left, log.solved) == (0, True)
    assert "q_7: SOLVED by attempt 2" in conclusion(log)


def test_an_exhausted_log_is_no_solved_one(path):
    log = filled(path)
    assert (log.left, log.solved) == (0, False)
    assert "not solved within the budget of 3 attempts" in conclusion(log)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_an_incomplete_last_line_is_set_aside_and_the_rest_kept(path, cut):
    written = filled(path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    incomplete = content[:-cut].splitlines()[-1]
    log = AttemptLog(path, CONFIG)
    assert without_time(log.records) == without_time(written.records[:2])
    assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:3])
    assert set_aside(path) == [incomplete]


def test_an_incomplete_header_is_set_aside_and_written_again(path):
    filled(path, 0)
    path.write_bytes(path.read_bytes()[:-4])
    log = AttemptLog(path, CONFIG)
    log.append(confirmed=False)
    assert read_log(path) == (CONFIG, log.records)


def test_half_a_surrogate_pair_is_logged_and_read_back(path):
    """Half of an emoji that was escaped in a tool call; the whole one and a backslash before it stay what they are."""
    response = "\\\ud83d whole: \U0001f600"
    AttemptLog(path, CONFIG).append(response=response, confirmed=False)
    assert read_log(path)[1][0]["response"] == response
    assert "\U0001f600".encode() in path.read_bytes()


def test_another_configuration_is_refused_and_the_difference_named(path):
    filled(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"begun differently: seed was 0, now 1; top_p was None, now 0\.5\. Repeat"):
        AttemptLog(path, {**CONFIG, "seed": 1, "top_p": 0.5})
    assert path.read_bytes() == before


def test_two_processes_cannot_write_one_log(path):
    log = AttemptLog(path, CONFIG)
    code = f"import pathlib, verl.sdpo.test_time.log as log\nlog.AttemptLog(pathlib.Path({str(path)!r}), {CONFIG})"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert "is being written by another process" in run.stderr
    log.close()


@pytest.mark.parametrize(
    ("line", "text"),
    [(0, b'{"attempt": 1}'), (1, b"nonsense"), (2, b'{"attempt": 3, "confirmed": false}'), (3, b"[]")],
)
def test_a_line_that_does_not_belong_is_named(path, line, text):
    filled(path)
    lines = path.read_bytes().splitlines()
    lines[line] = text
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match=f"line {line + 1}: expected "):
        AttemptLog(path, CONFIG)


def test_attempts_that_are_made_again_are_moved_beside_the_log(path):
    filled(path)
    lines = path.read_bytes().splitlines()
    log = AttemptLog(path, CONFIG)
    assert log.keep(1) == 2
    assert path.read_bytes().splitlines() == lines[:2]
    assert set_aside(path) == lines[2:]
    assert log.append(confirmed=True)["attempt"] == 2
    assert log.keep(2) == 0
    assert len(read_log(path)[1]) == 2
