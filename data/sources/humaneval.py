"""HumanEval+ (EvalPlus, arXiv 2305.01210)."""

import ast

from data.sources.catalog import Entry
from data.sources.prompts import code_prompt, tests_json

TIME_LIMIT = 5


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: prompt (the start of a program), entry_point, test (defines `check(candidate)`).
    """
    problem = f"Complete the following function. Do not modify the given code.\n```python\n{row['prompt'].strip()}\n```"
    test = f"{row['test']}\n\ncheck({row['entry_point']})"
    return {
        "prompt": code_prompt(problem, TIME_LIMIT),
        "description": _docstring(row["prompt"], row["entry_point"]).split(">>>")[0].strip(),
        "tests": tests_json([test], [""], "code", time_limit=TIME_LIMIT),
    }


def _docstring(program: str, name: str) -> str:
    functions = [node for node in ast.parse(program).body if isinstance(node, ast.FunctionDef) and node.name == name]
    return ast.get_docstring(functions[-1]) or ""
