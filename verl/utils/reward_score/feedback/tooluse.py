"""Tool use: the ordered calls that a response writes as `Action:` / `Action Input:` lines (ToolAlpaca's format)."""

import json
import re
from dataclasses import dataclass
from typing import Any

from verl.sdpo.reasoning import remove_thinking
from verl.utils.reward_score.feedback.answer import no_answer, wrong_answer
from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Task, Verdict
from verl.utils.reward_score.feedback.text import clip, sanitise

HOW = 'For every call write a line "Action: <tool name>" and then a line "Action Input: <one JSON object>".'

_ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_INPUT = re.compile(r"\s*Action Input:\s*")
# The input may stand in a Markdown block of its own.
_FENCE = re.compile(r"(`{3,})(?:json)?[ \t]*\n\s*")
_MAX_SHOWN_CHARS = 400


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name} {json.dumps(self.arguments, ensure_ascii=False)}"


class FormatError(Exception):
    """The response does not keep the call format; the message tells the model how."""


def parse_calls(response: str) -> list[Call]:
    """All calls in order.

    Raises:
        FormatError: There is no call, a call lacks its input, or an input is no JSON object alone on its lines.
    """
    calls: list[Call] = []
    position = 0
    while action := _ACTION.search(response, position):
        place = f"Call {len(calls) + 1}"
        label = _INPUT.match(response, action.end())
        if not action[1] or not label:
            raise FormatError(f'{place}: "Action: {clip(action[1], 100)}" is not followed by an "Action Input:" line.')
        arguments, position = _json_object(response, label.end(), place)
        calls.append(Call(action[1], arguments))
    if not calls:
        raise FormatError('There is no "Action:" line.')
    return calls


def _json_object(text: str, start: int, place: str) -> tuple[dict[str, Any], int]:
    fence = _FENCE.match(text, start)
    try:
        value, end = _DECODER.raw_decode(text, fence.end() if fence else start)
    except json.JSONDecodeError as error:
        where = f"at {clip(text[error.pos : error.pos + 30], 30)!r}" if error.pos < len(text) else "at the end"
        raise FormatError(f"{place}: the action input is not valid JSON: {error.msg} {where}.") from error
    except (ValueError, RecursionError) as error:  # NaN, integers of thousands of digits, thousands of brackets
        raise FormatError(f"{place}: the action input is not JSON of reasonable size.") from error
    if not isinstance(value, dict):
        raise FormatError(f"{place}: the action input must be a JSON object.")
    if fence:
        closing = re.compile(r"\s*" + fence[1]).match(text, end)
        if not closing:
            raise FormatError(f"{place}: the Markdown block of the action input holds more than one JSON object.")
        end = closing.end()
    rest = text[end:].partition("\n")[0].strip()
    if rest:
        raise FormatError(f"{place}: {clip(rest, 60)!r} follows the action input on its line.")
    return value, end


def _reject_constant(name: str):
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)


def parse_gold(ground_truth: Any) -> list[Call]:
    """The expected calls, from a list of `{"Action": name, "Action_Input": object or JSON text}` or its JSON text.

    Raises:
        GraderFault: The ground truth is not of that form.
    """
    try:
        records = json.loads(ground_truth) if isinstance(ground_truth, str) else list(ground_truth)
        calls = [Call(record["Action"], _arguments(record["Action_Input"])) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise GraderFault(f"the tool-use ground truth {clip(str(ground_truth), 200)!r} is unusable: {error}") from error
    if not calls:
        raise GraderFault("the tool-use ground truth holds no call")
    return calls


def _arguments(action_input: Any) -> dict[str, Any]:
    value = json.loads(action_input) if isinstance(action_input, str) else action_input
    if not isinstance(value, dict):
        raise TypeError(f"Action_Input is {type(value).__name__}, expected a JSON object")
    return value


def same(a: Any, b: Any) -> bool:
    """JSON equality: `true` is not 1, `"1"` is not 1, 1.0 is 1, and keys have no order."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def first_mismatch(calls: list[Call], gold: list[Call]) -> str | None:
    """Name the first difference in the response's own words, without any gold name or value; None if equal."""
    for i, (call, want) in enumerate(zip(calls, gold, strict=False), start=1):
        if call.name != want.name:
            return f"Call {i}: {call.name} is not the right tool."
        if unknown := [key for key in call.arguments if key not in want.arguments]:
            return f"Call {i} ({call.name}): unexpected argument {unknown[0]!r}."
        if len(call.arguments) < len(want.arguments):
            return f"Call {i} ({call.name}): an argument is missing."
        for key, value in call.arguments.items():
            if not same(value, want.arguments[key]):
                return f"Call {i} ({call.name}): wrong value of {key!r}: {json.dumps(value, ensure_ascii=False)}"
    if len(calls) != len(gold):
        return f"{len(calls)} call(s) were made, which is too {'many' if len(calls) > len(gold) else 'few'}."
    return None


def grade(task: Task) -> Grade:
    """Accept exactly the gold calls, in order, with equal arguments."""
    gold = parse_gold(task.ground_truth)
    try:
        calls = parse_calls(remove_thinking(task.response))
    except FormatError as error:
        return no_answer(task, sanitise(f"{error} {HOW}"))
    pred = "\n".join(map(str, calls))
    mismatch = first_mismatch(calls, gold)
    if mismatch is None:
        return Grade(Verdict.ACCEPTED, pred=pred)
    expected = [clip(str(call), _MAX_SHOWN_CHARS) for call in gold]
    return wrong_answer(
        task,
        pred=pred,
        mismatch=clip(mismatch, _MAX_SHOWN_CHARS),
        gold="\n".join(["Expected calls:", *expected]),
    )
