import base64
import json
import pickle
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.load_dataset import main, open_rows, records_of
from data.records import DataError, write_lines
from data.sources import corpus, livecodebench, math
from data.sources.catalog import find, load_catalog
from data.sources.prompts import describe
from verl.utils.reward_score.feedback import DATA_SOURCES

from .hub import livecodebench_row


@pytest.fixture(scope="module")
def load(hub):
    """Records of a dataset, through `datasets.load_dataset` on the fake hub."""

    def load(name: str, **options) -> list[dict]:
        entry = find(name)
        return list(records_of(open_rows(entry, source=str(hub / entry.repo)), entry, **options))

    return load


FROM_THE_HUB = [name for name, entry in load_catalog().items() if entry.repo]


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_every_dataset_loads_into_the_unified_columns(load, name):
    records = load(name)
    assert [record["idx"] for record in records] == list(range(len(records)))
    for record in records:
        assert list(record) == [
            *("idx", "kind", "dataset", "answer", "elo", "prompt", "description"),
            *("tests", "public_tests", "system"),
        ]
        assert record["kind"] in ("mcq", "gpqa", "mmlu_pro", "math", "code")
        assert record["description"].endswith(f" The solution will be evaluated in a {record['kind']} environment.")
        assert (record["tests"] == "-") == (record["kind"] != "code")
        assert (record["answer"] == "-") == (record["kind"] == "code")


def test_sciknoweval_keeps_level_3_multiple_choice_of_the_domain(load):
    assert len(load("Chemistry")) == 8
    four, two = load("Biology")
    assert four["prompt"] == (
        "Which gas number 10 is lightest?\n\nA: Ne\nB: Ar\nC: He\nD: Kr\nPlease reason step by step."
    )
    assert (four["answer"], four["elo"]) == ("C", 1500)
    assert two["prompt"].endswith("\n\nA: yes\nB: no\nPlease reason step by step.")
    assert four["system"].startswith("\nGiven a question and four options") and four["system"].endswith("</answer>\n")


def test_livecodebench_keeps_its_window_and_both_kinds_of_tests(load):
    first, functional, last = load("livecodebench/code_generation_lite-v6")
    assert ["list 1" in first["prompt"], "list 2" in functional["prompt"], "list 3" in last["prompt"]] == [True] * 3
    private, public = json.loads(first["tests"]), json.loads(first["public_tests"])
    assert private == {
        "inputs": [f"[1, {case}]\n2" for case in range(2, 6)],
        "outputs": ["2", "3", "4", "5"],
        "testtype": "stdin",
        "fn_name": "",
        "time_limit": 6,
    }
    assert (public["outputs"], public.keys()) == (["0", "1"], private.keys())
    assert (json.loads(functional["tests"])["testtype"], json.loads(functional["tests"])["fn_name"]) == (
        "functional",
        "addUp",
    )
    assert "time limit of 6 seconds" in first["prompt"]
    assert first["description"].startswith("Add up the numbers of list 1. The solution")


def test_livecodebench_asks_for_a_bare_function(load):
    prompt = load("livecodebench/code_generation_lite-v6")[1]["prompt"]
    assert "```python\ndef addUp(nums: List[int], k: int) -> int:\n```" in prompt
    assert "self" not in prompt and "class Solution" not in prompt


@pytest.mark.parametrize(
    ("starter", "wanted"),
    [
        ("class Solution:\n    def f(self) -> int:\n        ", "def f() -> int:"),
        ("class Solution:\n    def f(self, n: int) -> int:\n        ", "def f(n: int) -> int:"),
        ("class Solution:\n    def f(\n        self, n: int) -> int:\nInput\n", "def f(n: int) -> int:"),
    ],
)
def test_signature_drops_the_class_and_self(starter, wanted):
    assert livecodebench.signature(starter) == wanted


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(value=plain, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_pickles_are_read_in_every_protocol(value, protocol):
    assert livecodebench.safe_unpickle(pickle.dumps(value, protocol)) == value


def test_a_pickle_with_many_objects_is_read_in_every_protocol():
    value = [{"input": str(number), "output": "x" * 300} for number in range(400)]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert livecodebench.safe_unpickle(pickle.dumps(value, protocol)) == value


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused_before_it_runs(tmp_path, protocol):
    data = pickle.dumps(["harmless", Bomb(tmp_path / "pwned")], protocol)
    with pytest.raises(pickle.UnpicklingError, match="is not plain data"):
        livecodebench.safe_unpickle(data)
    row = livecodebench_row(0) | {"private_test_cases": base64.b64encode(zlib.compress(data)).decode()}
    with pytest.raises(DataError, match="cannot be decoded safely"):
        livecodebench.to_record(row, find("livecodebench/code_generation_lite-v6"))
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_cannot_claim_a_huge_memo():
    """LONG_BINPUT 2**31-1 would make the unpickler allocate an array of that length."""
    with pytest.raises(pickle.UnpicklingError, match="memo index"):
        livecodebench.safe_unpickle(b"\x80\x02]r\xff\xff\xff\x7f.")


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_give_plain_data_or_an_unpickling_error(data):
    try:
        value = livecodebench.safe_unpickle(b"\x80\x04" + data)
    except pickle.UnpicklingError:
        return
    json.dumps(value, default=repr, skipkeys=True)


def test_humaneval_calls_its_check_and_describes_the_right_function(load):
    (record,) = load("evalplus/humanevalplus")
    tests = json.loads(record["tests"])
    assert (tests["testtype"], tests["time_limit"], tests["outputs"]) == ("code", 5, [""])
    exec(compile("def double(x): return 2 * x\n" + tests["inputs"][0], "tests", "exec"), {})
    assert record["description"].startswith("Return twice the number. The solution")
    assert "def helper" in record["prompt"] and "double(2)" in record["prompt"]


def test_mbpp_names_the_function_that_is_tested(load):
    (record,) = load("evalplus/mbppplus")
    assert "`largest`" in record["prompt"]
    tests = json.loads(record["tests"])
    assert tests["inputs"][0].startswith("import math\nimport numpy")
    exec(compile("def largest(xs): return max(xs)\n" + tests["inputs"][0], "tests", "exec"), {})


def test_codeforces_uses_official_tests_and_leaves_out_rows_without(load):
    first, second = load("open-r1/codeforces")
    assert json.loads(first["tests"])["outputs"] == ["YES\n", "NO\n"]
    assert (first["elo"], second["elo"]) == (800, "-")
    assert (json.loads(first["tests"])["time_limit"], json.loads(second["tests"])["time_limit"]) == (1.0, 2.0)
    for part in (
        "<h1>Watermelon</h1>",
        "Time limit per test: 1 s",
        "<h2>Input Format</h2>\nOne number.",
        "Even numbers",
    ):
        assert part in first["prompt"]
    assert "Interaction" not in first["prompt"] and "Editorial" not in second["prompt"]


def test_codeelo_uses_the_examples(load):
    (record,) = load("Qwen/CodeElo")
    tests = json.loads(record["tests"])
    assert (tests["inputs"], tests["outputs"], tests["time_limit"]) == (["1\n100", "1\n1010"], ["NO", "YES"], 1.5)


def test_gpqa_shuffles_the_same_way_every_time_but_not_every_question_alike(load):
    records = load("Idavidrein/gpqa-D")
    assert records == load("Idavidrein/gpqa-D")
    # Pinned: the same on every machine and Python.
    assert [record["answer"] for record in records] == ["A", "C", "A"]
    for record in records:
        assert f"{record['answer']}) Neutron" in record["prompt"]
        assert "Muon\n" not in record["prompt"].split("Options:")[1].split("\nAnswer:")[0]


def test_categories_select_rows(load):
    assert len(load("Idavidrein/gpqa-D", category="Physics")) == 2
    assert len(load("TIGER-Lab/MMLU-Pro", category="computer_science")) == 1
    assert [record["kind"] for record in load("lasgroup/verifiable-corpus", category="code")] == ["code"]


def test_mmlu_pro_lists_every_option(load):
    record = load("TIGER-Lab/MMLU-Pro")[1]
    assert "\nA. 0\n" in record["prompt"] and "\nJ. 9\n" in record["prompt"]
    assert record["prompt"].endswith("Answer: Let's think step by step.") and record["answer"] == "C"


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("openai/gsm8k", ["18", "-5", "1,234,567"]),
        ("math-ai/aime24", ["204"]),
        ("math-ai/aime25", ["70"]),
        ("math-ai/amc23", ["27"]),
        ("math-ai/math500", ["\\left( 3, \\frac{\\pi}{2} \\right)"]),
    ],
)
def test_math_answers(load, name, answers):
    assert [record["answer"] for record in load(name)] == answers


@pytest.mark.parametrize(("stored", "answer"), [(27.0, "27"), (1234567.0, "1234567"), (-0.5, "-0.5"), (70, "70")])
def test_amcs_floating_point_answers_keep_every_digit(stored, answer):
    entry = find("math-ai/amc23")
    assert math.to_record({"question": "?", "answer": stored}, entry)["answer"] == answer


def test_the_math_grader_reads_thousands_separators_and_signs():
    from math_verify import parse, verify

    def same(gold: str, answer: str) -> bool:
        return verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}"))

    assert same("1,234,567", "1234567") and same("-5", "-5") and not same("-5", "5") and not same("1,234,567", "1")


def test_the_corpus_keeps_what_can_be_graded(load):
    math, code = load("lasgroup/verifiable-corpus")
    assert (math["kind"], math["dataset"], math["answer"]) == ("math", "dapo_math", "2")
    assert (code["kind"], code["dataset"]) == ("code", "code")
    assert "time limit of 2 seconds" in code["prompt"] and "\\boxed{}" in math["prompt"]


@pytest.mark.parametrize(
    ("answer", "text"), [(27.0, "27"), (1234567.0, "1234567"), (-0.125, "-0.125"), ("27.0", "27.0")]
)
def test_an_answer_stored_as_a_floating_point_number_keeps_all_its_digits(answer, text):
    entry = find("math-ai/amc23")
    assert math.to_record({"question": "How far?", "answer": answer}, entry)["answer"] == text


def test_the_graders_know_every_name_of_the_catalog_and_no_other():
    names = {entry.dataset for entry in load_catalog().values()} - {None}
    assert names | {"dapo_math"} == corpus.GRADED
    assert names | {"dapo_math", *corpus.KINDS} == set(DATA_SOURCES)


def test_tooluse_keeps_the_shipped_records(tmp_path):
    """Made up, with the fields of the shipped files."""
    call = json.dumps([{"Action": "getWeather", "Action_Input": json.dumps({"city": "Rome"})}])
    shipped = [
        {"prompt": f"Begin!\nQuestion: {number}?", "description": f"Begin!\nQuestion: {number}?", "idx": number}
        | {"dataset": "tooluse", "system": None, "answer": call, "tests": None, "kind": "tooluse", "elo": 1500}
        for number in (4046, 4047)
    ]
    source = tmp_path / "shipped.json"
    write_lines(source, shipped)
    main(["--dataset-name", "tooluse", "--source", str(source), "--output-path", str(tmp_path / "test.json")])
    loaded = json.loads((tmp_path / "test.json").read_text())
    for column in ("idx", "prompt", "description", "answer", "kind", "dataset", "elo", "system"):
        assert [record[column] for record in loaded] == [record[column] for record in shipped]


def test_a_file_that_is_not_tooluse_is_named_with_its_row(tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"idx": 0, "prompt": "p", "answer": "[]", "system": null, "elo": 1}\n')
    with pytest.raises(DataError, match="tooluse, row 0: not a tooluse record"):
        list(records_of(open_rows(find("tooluse"), source=str(source)), find("tooluse")))


@pytest.mark.parametrize(
    ("problem", "wanted"),
    [
        ("Count the ways.\n**Input:**\nn", "Count the ways."),
        ("Count the ways.\n\nExamples 1\n3", "Count the ways."),
        ("Count the ways.\nFor example: 3", "Count the ways."),
        ("Count the ways.\nInput - one line", "Count the ways."),
        ("Count the ways.\n-\n-----\nn", "Count the ways."),
        ("Input\nOnly a format, no description.", "Input\nOnly a format, no description."),
        ("The input is a number, print it.", "The input is a number, print it."),
    ],
)
def test_describe_stops_at_the_format(problem, wanted):
    assert describe(problem) == wanted
