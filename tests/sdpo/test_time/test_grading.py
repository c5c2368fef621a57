import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.preprocess import preprocess
from data.split_tests import split_tests
from tests.sdpo.test_time.fakes import HIDDEN, PUBLIC, QUESTION, reward_function, write_question
from verl.sdpo.test_time.grading import compute_score, grade_question, read_question

GRADER = "from tests.sdpo.test_time.fakes import reward_function as compute_score\n"


def test_a_question_is_read_from_its_folder(tmp_path):
    folder = write_question(tmp_path / "q_120")
    question = read_question(folder / "train.parquet", folder / "test.parquet")
    assert (question.id, question.messages) == ("q_120", QUESTION.messages)
    assert (question.public, question.hidden) == (PUBLIC, HIDDEN)
    assert question.header() != QUESTION.header()


def test_the_header_changes_with_the_tests_and_does_not_show_them(tmp_path):
    headers = []
    for hidden in (HIDDEN, "other"):
        folder = write_question(tmp_path / hidden[:3] / "q_120", hidden=hidden)
        headers.append(read_question(folder / "train.parquet", folder / "test.parquet").header())
    assert headers[0]["tests"] != headers[1]["tests"]
    assert HIDDEN not in str(headers)


def test_a_file_of_many_questions_is_refused(tmp_path):
    rows = [pq.read_table(write_question(tmp_path / name, source=name) / "train.parquet") for name in "ab"]
    pq.write_table(pa.concat_tables(rows), tmp_path / "a" / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet has 2 different rows, expected 1\. Name the folder of one"):
        read_question(tmp_path / "a" / "train.parquet", tmp_path / "a" / "test.parquet")


def test_the_folders_of_the_data_pipeline_are_read(tmp_path):
    """data/split_tests.py writes four copies into train; the public tests are half of all."""
    tests = {"inputs": ["1", "2", "3", "4"], "outputs": ["1", "4", "9", "16"], "testtype": "stdin", "time_limit": 5}
    record = {"idx": 3, "kind": "code", "dataset": "livecodebench", "prompt": "Square it.", "tests": json.dumps(tests)}
    (tmp_path / "lcb.json").write_text(json.dumps([record]))
    split_tests(str(tmp_path / "lcb.json"), str(tmp_path / "lcb"), singles_dir=str(tmp_path / "singles"))
    folder = tmp_path / "singles" / "q_3"
    assert preprocess(folder) == {"train": 4, "test": 1}
    question = read_question(folder / "train.parquet", folder / "test.parquet")
    assert (question.id, question.messages[0]["content"]) == ("q_3", "Square it.")
    assert len(json.loads(question.public)["inputs"]) == 2
    assert json.loads(question.hidden) == tests


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"train\.parquet does not exist"):
        read_question(tmp_path / "train.parquet", tmp_path / "test.parquet")


@pytest.mark.parametrize(
    ("response", "reward", "confirmed", "hidden"),
    [
        ("wrong", 0.0, False, None),
        ("cheat", 1.0, False, {"score": 0.0, "acc": 0.0}),
        ("right", 1.0, True, {"score": 1.0, "acc": 1.0}),
    ],
)
def test_reward_and_feedback_come_from_the_public_tests(response, reward, confirmed, hidden):
    result = grade_question(reward_function, QUESTION, response, truncated=False)
    assert (result["score"], result["confirmed"], result["hidden"]) == (reward, confirmed, hidden)
    assert result["feedback"] == ("wrong fails public tests" if response == "wrong" else "")


def test_the_reward_function_of_training_does_the_same(tmp_path):
    folder = write_question(tmp_path / "q_7")
    (tmp_path / "grader.py").write_text(GRADER)
    for response in ("wrong", "cheat", "right"):
        result = compute_score(
            "fake",
            response,
            PUBLIC,
            {"truncated": True},
            hidden_file=str(folder / "test.parquet"),
            grader=str(tmp_path / "grader.py"),
            options={},
            reward_router_address=None,
        )
        assert result == grade_question(reward_function, QUESTION, response, truncated=True)


def test_hidden_tests_of_code_are_run_by_the_projects_graders(tmp_path):
    """A program that knows the public answer by heart passes the public test and fails the hidden ones."""
    tests = '{{"inputs": {}, "outputs": {}, "testtype": "stdin", "fn_name": "", "time_limit": 5}}'
    folder = write_question(tmp_path / "q_1", hidden=tests.format('["2", "3"]', '["4", "9"]'))
    call = {
        "hidden_file": str(folder / "test.parquet"),
        "grader": "pkg://verl.utils.reward_score.feedback",
        "options": {},
    }
    public = tests.format('["2"]', '["4"]')
    by_heart = compute_score("livecodebench", "```python\nprint(4)\n```", public, {}, **call)
    solution = compute_score("livecodebench", "```python\nprint(int(input()) ** 2)\n```", public, {}, **call)
    assert (by_heart["score"], by_heart["confirmed"], by_heart["feedback"]) == (1.0, False, "")
    assert by_heart["hidden"]["verdict"] == "wrong_answer"
    assert solution["confirmed"]
