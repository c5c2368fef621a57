"""A folder that stands for the hub: for every dataset a few made-up rows, in the files and columns of the real one.

`datasets.load_dataset` reads such a folder exactly as it reads a downloaded snapshot, so only the download is missing.
"""

import base64
import csv
import json
import pickle
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OPTIONS = {"text": ["Ne", "Ar", "He", "Kr"], "label": ["A", "B", "C", "D"]}


def sciknoweval_row(number: int, **changes) -> dict:
    return {
        "question": f"Which gas number {number} is lightest?",
        "choices": OPTIONS,
        "answerKey": "C",
        "type": "mcq-4-choices",
        "domain": "Chemistry",
        "details": {"level": "L3", "task": "gases", "subtask": "mass"},
        "answer": "",
    } | changes


SCIKNOWEVAL = [
    *(sciknoweval_row(number) for number in range(8)),
    sciknoweval_row(8, details={"level": "L2", "task": "gases", "subtask": "mass"}),
    sciknoweval_row(9, type="true_or_false", choices={"text": [], "label": []}, answerKey="", answer="true"),
    sciknoweval_row(10, domain="Biology"),
    sciknoweval_row(11, domain="Biology", type="mcq-2-choices", choices={"text": ["yes", "no"], "label": ["A", "B"]}),
    sciknoweval_row(12, domain="Material"),
    sciknoweval_row(13, domain="Physics"),
]


def encoded(cases: list[dict]) -> str:
    """Test cases as LiveCodeBench stores the private ones."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def livecodebench_row(number: int, *, date: str = "2025-03-01T00:00:00", function: str = "") -> dict:
    testtype = "functional" if function else "stdin"
    cases = [{"input": f"[1, {case}]\n2", "output": f"{case}", "testtype": testtype} for case in range(6)]
    starter = (
        f"class Solution:\n    def {function}(self, nums: List[int], k: int) -> int:\n        " if function else ""
    )
    return {
        "question_title": f"Problem {number}",
        "question_content": f"Add up the numbers of list {number}.\n\nInput\n\nOne line.\n\nExample 1:\n1",
        "platform": "leetcode" if function else "atcoder",
        "question_id": f"abc{number}",
        "contest_id": f"c{number}",
        "contest_date": date,
        "starter_code": starter,
        "difficulty": "easy",
        "public_test_cases": json.dumps(cases[:2]),
        "private_test_cases": encoded(cases[2:]),
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


LIVECODEBENCH = [
    livecodebench_row(0, date="2025-01-31T00:00:00"),
    livecodebench_row(1, date="2025-02-01T00:00:00"),
    livecodebench_row(2, function="addUp"),
    livecodebench_row(3, date="2025-04-30T23:00:00"),
    livecodebench_row(4, date="2025-05-01T00:00:00"),
]

HUMANEVALPLUS = [
    {
        "task_id": "HumanEval/0",
        "prompt": "def helper(x):\n    return x\n\n\ndef double(x: int) -> int:\n"
        '    """ Return twice the number.\n    >>> double(2)\n    4\n    """\n',
        "canonical_solution": "    return 2 * x\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
]

MBPPPLUS = [
    {
        "task_id": 2,
        "code": "def helper(x):\n  return x\ndef largest(xs):\n  return helper(max(xs))",
        "prompt": "Write a function to find the largest number.",
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "test_imports": ["import math"],
        "test_list": ["assert math.floor(largest([1, 3])) == 3"],
        "test": "import numpy as np\nassert largest([1, 3]) == 3",
    }
]

CODEFORCES = [
    {
        "id": "1/A",
        "aliases": ["2/A"],
        "title": "Watermelon",
        "time_limit": 1.0,
        "memory_limit": 64.0,
        "description": "Divide the melon.",
        "input_format": "One number.",
        "output_format": "YES or NO.",
        "interaction_format": None,
        "note": "A note.",
        "examples": [{"input": "8", "output": "YES"}],
        "editorial": "Even numbers above 2.",
        "rating": 800,
        "official_tests": [{"input": "8\n", "output": "YES\n"}, {"input": "3\n", "output": "NO\n"}],
        "official_tests_complete": True,
        "input_mode": "stdio",
        "generated_tests": 0,
    },
]
CODEFORCES.append(CODEFORCES[0] | {"id": "1/B", "time_limit": None, "rating": None, "editorial": None})
CODEFORCES.append(CODEFORCES[0] | {"id": "1/C", "official_tests": []})

CODEELO = [
    {
        "problem_id": "2000A",
        "url": "https://codeforces.com/problemset/problem/2000/A",
        "title": "Primary Task",
        "rating": 800,
        "tags": ["math"],
        "div": "Div. 3",
        "time_limit_ms": 1500,
        "memory_limit_mb": 256,
        "description": "Find the important integers.",
        "input": "Some integers.",
        "output": "YES or NO.",
        "interaction": "",
        "examples": [["1\n100", "NO"], ["1\n1010", "YES"]],
        "note": "",
    }
]

GPQA = [
    {
        "Question": f"Which particle number {number} has no charge?",
        "Correct Answer": "Neutron",
        "Incorrect Answer 1": "Proton",
        "Incorrect Answer 2": "Electron",
        "Incorrect Answer 3": "Muon\n",
        "Record ID": f"rec{number + 4}",
        "High-level domain": domain,
        "Subdomain": "Physics (general)",
    }
    for number, domain in enumerate(["Physics", "Chemistry", "Physics"])
]

MMLU_PRO = [
    {
        "question_id": 70 + number,
        "question": f"What is {number} + {number}?",
        "options": [str(option) for option in range(10)],
        "answer": "ABCDEFGHIJ"[2 * number],
        "answer_index": 2 * number,
        "cot_content": "",
        "category": "math" if number else "computer science",
        "src": "made up",
    }
    for number in range(4)
]

AIME24 = [{"id": 60, "problem": "Find $x$.", "solution": "\\boxed{204}", "url": "u"}]
AIME25 = [{"problem": "Find $y$.", "answer": "70", "id": "0"}]
MATH500 = [
    {
        "problem": "Convert to polar coordinates.",
        "solution": "...",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    }
]
AMC23 = [{"id": 0, "question": "Cities A and B are 45 miles apart.", "answer": "27", "url": "u"}]
GSM8K = [
    {"question": "How many eggs?", "answer": "She has 3 * 6 = <<3*6=18>>18 eggs.\n#### 18"},
    {"question": "What is the loss?", "answer": "It fell.\n#### -5"},
    {"question": "How many people?", "answer": "A town.\n#### 1,234,567"},
]

CORPUS = [
    {"kind": "math", "dataset": "dapo_math", "problem": "1+1?", "description": "1+1?", "answer": "2", "tests": None},
    {
        "kind": "code",
        "dataset": "taco",
        "problem": "Print the input.",
        "description": "",
        "answer": None,
        "tests": json.dumps({"inputs": ["1"], "outputs": ["1"], "testtype": "stdin", "fn_name": "", "time_limit": 2}),
    },
    {"kind": "verifier", "dataset": "webinstruct", "problem": "Why?", "description": "", "answer": "So", "tests": None},
]
CORPUS = [row | {"elo": None} for row in CORPUS]


def _card(folder: Path, config: str, split: str, path: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {path}\n---\n"
    (folder / "README.md").write_text(card)


def _parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_sciknoweval(root: Path, rows: list[dict]) -> Path:
    folder = root / "hicai-zju/SciKnowEval"
    _card(folder, "v2", "test", "data/v2/sciknoweval_test_v2.jsonl")
    _lines(folder / "data/v2/sciknoweval_test_v2.jsonl", rows)
    return folder


def write_hub(root: Path) -> Path:
    """Fill `root` with a folder `owner/name` per repository."""
    write_sciknoweval(root, SCIKNOWEVAL)
    _lines(root / "livecodebench/code_generation_lite/test6.jsonl", LIVECODEBENCH)
    _parquet(root / "evalplus/humanevalplus/data/test-00000-of-00001-5973903632b82d40.parquet", HUMANEVALPLUS)
    _parquet(root / "evalplus/mbppplus/data/test-00000-of-00001-d5781c9c51e02795.parquet", MBPPPLUS)
    _card(root / "open-r1/codeforces", "verifiable", "test", "verifiable/test-*")
    _parquet(root / "open-r1/codeforces/verifiable/test-00000-of-00001.parquet", CODEFORCES)
    _parquet(root / "Qwen/CodeElo/data/test-00000-of-00001.parquet", CODEELO)
    _card(root / "Idavidrein/gpqa", "gpqa_diamond", "train", "gpqa_diamond.csv")
    _csv(root / "Idavidrein/gpqa/gpqa_diamond.csv", GPQA)
    _parquet(root / "TIGER-Lab/MMLU-Pro/data/test-00000-of-00001.parquet", MMLU_PRO)
    _parquet(root / "math-ai/aime24/test-00000-of-00001.parquet", AIME24)
    _lines(root / "math-ai/aime25/test.jsonl", AIME25)
    _lines(root / "math-ai/math500/test.jsonl", MATH500)
    _parquet(root / "math-ai/amc23/test-00000-of-00001.parquet", AMC23)
    _card(root / "openai/gsm8k", "main", "test", "main/test-*")
    _parquet(root / "openai/gsm8k/main/test-00000-of-00001.parquet", GSM8K)
    _parquet(root / "lasgroup/verifiable-corpus/data/train-00000-of-00001.parquet", CORPUS)
    return root
