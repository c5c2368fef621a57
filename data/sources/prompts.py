"""Prompts and text handling that several families share."""

import json
import re

_HEADER = re.compile(r"\W*(input|examples?)\W*\d*\W*", re.IGNORECASE)
_SEPARATOR = re.compile(r"\W*input\s+-|.*(for example:|```|-----)", re.IGNORECASE)
_MIN_DESCRIPTION = 10


def math_prompt(problem: str) -> str:
    """Return the problem with the answer format that the math grader reads."""
    return f"{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def code_prompt(problem: str, time_limit: float) -> str:
    """Return the task of writing a program; `time_limit` is the seconds that each test may take."""
    return (
        "You are an expert programmer. Write a correct Python program that meets the specification below and passes "
        f"all of its tests. Each test has a time limit of {time_limit:g} second{'s' if time_limit != 1 else ''}. "
        "You may outline your thoughts first. Finish with the complete program in a code block that starts with "
        f"```python and ends with ```.\n\n{problem}"
    )


def options_alike(options: list[str]) -> list[str]:
    """Return the options of a question in one layout, so that it does not tell the right one from the others.

    Blanks go, but for one between words. A stop at the end and quotes around an option go if only some options have
    them, and if the options stay different.
    """
    options = [" ".join(option.split()) for option in options]
    for bare in (_without_stop, _without_quotes):
        changed = [bare(option) for option in options]
        if any(map(str.__eq__, options, changed)) and len(set(changed)) == len(set(options)) and all(changed):
            options = changed
    return options


def _without_stop(option: str) -> str:
    return option if option.endswith("..") else option.removesuffix(".").rstrip()


def _without_quotes(option: str) -> str:
    quoted = re.fullmatch(r"([\"'])([^\"']+)\1|\u201c([^\u201d]+)\u201d", option)
    return (quoted[2] or quoted[3]).strip() if quoted else option


def describe(problem: str) -> str:
    """Return the text before the input format and the examples, or all of it if that is next to nothing."""
    kept = []
    for line in problem.splitlines():
        if _HEADER.fullmatch(line) or _SEPARATOR.match(line):
            break
        kept.append(line)
    if kept and kept[-1].rstrip().endswith("-"):
        kept.pop()
    description = "\n".join(kept).strip()
    return description if len(description) >= _MIN_DESCRIPTION else problem.strip()


def tests_json(inputs: list, outputs: list, testtype: str, *, time_limit: float, fn_name: str = "") -> str:
    """Return the `tests` string of a code task: `testtype` stdin, functional or code, `time_limit` seconds per test."""
    assert len(inputs) == len(outputs)
    tests = {"inputs": inputs, "outputs": outputs, "testtype": testtype, "fn_name": fn_name, "time_limit": time_limit}
    return json.dumps(tests, ensure_ascii=False)
