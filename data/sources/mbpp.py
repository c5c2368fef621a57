"""MBPP+ (EvalPlus, arXiv 2305.01210)."""

import ast

from data.records import DataError
from data.sources.catalog import Entry
from data.sources.prompts import code_prompt, tests_json

TIME_LIMIT = 5


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: prompt (one or two sentences), code (a solution), test_imports, test_list, test (a program).
    """
    problem = f"{row['prompt'].strip()}\n\nThe function should be called `{function_name(row)}`."
    test = "\n".join([*row["test_imports"], row["test"]])
    return {
        "prompt": code_prompt(problem, TIME_LIMIT),
        "description": row["prompt"].strip(),
        "tests": tests_json([test], [""], "code", time_limit=TIME_LIMIT),
    }


def function_name(row: dict) -> str:
    """Return the function of the solution that the first plain test calls (solutions also define helpers)."""
    defined = {node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(ast.parse(row["test_list"][0])):
        if isinstance(node, ast.Name) and node.id in defined:
            return node.id
    raise DataError(f"no function of the solution ({', '.join(sorted(defined))}) in the test {row['test_list'][0]!r}.")
