"""The quickstart's environments: write a tool call as JSON, and get feedback on its faults.

`ENVIRONMENTS` names them. Tasks are drawn from a seed. No call that a held-out task asks for is asked for, in any
wording, by a training task. `compute_score` is the reward function for verl:
`reward.custom_reward_function.path=.../environment.py`.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, product, zip_longest
from typing import Any, ClassVar, NamedTuple

SPLITS = ("train", "heldout")

# Of each tool's possible calls, the share that only held-out tasks ask for.
HELDOUT_SHARE = 1 / 3


class Tool(NamedTuple):
    """A tool, its arguments (keys of `VALUES`), and how a person asks for it."""

    name: str
    arguments: tuple[str, ...]
    request: str


TOOLS = (
    Tool("weather", ("city",), "What is the weather in {city}?"),
    Tool("weather", ("city", "day"), "What is the weather in {city} on {day}?"),
    Tool("alarm", ("time",), "Wake me up at {time}."),
    Tool("alarm", ("time", "day"), "Wake me up at {time} on {day}."),
    Tool("music", ("artist",), "Play something by {artist}."),
    Tool("music", ("artist", "room"), "Play something by {artist} in the {room}."),
    Tool("lights", ("room", "color"), "Make the {room} light {color}."),
    Tool("map", ("place",), "Where is the {place}?"),
)

VALUES = {
    "city": "Berlin Boston Cairo Chicago Dublin Lima London Oslo Paris Rome Tokyo Vienna",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "time": "5:30 6:00 6:15 6:45 7:00 7:30 8:00 8:15 8:45 9:00 9:30 10:20",
    "artist": "Adele Bach Beethoven Beyonce Bowie Chopin Drake Mozart Prince Queen Sting Vivaldi",
    "room": "bathroom bedroom garage hallway kitchen office",
    "color": "blue green orange purple red yellow",
    "place": "airport bank bridge castle church harbor hospital hotel market museum park station",
}


class Task(NamedTuple):
    """One question and the only object that answers it."""

    prompt: str
    call: dict[str, str]


class Faults(NamedTuple):
    """Faults of a reply; all empty when it is right."""

    unreadable: str = ""
    """Sentence on why there is no object to compare, if so."""
    missing: Sequence[str] = ()
    unknown: Sequence[str] = ()
    wrong: Sequence[tuple[str, Any, str]] = ()
    """Key, value found, value expected."""


class ToolJson:
    """Task whose prompt names the right keys. The feedback names the key or value that is wrong."""

    wordings: ClassVar[Sequence[str]] = (
        "Write one line of JSON with the keys {keys}. {facts}",
        'Write one line of JSON with the keys {keys} for the request "{request}" {facts}',
    )
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys that the API takes in place of those that the prompt names."""

    def task(self, tool: Tool, wording: str, call: Mapping[str, str]) -> Task:
        facts = " ".join(f"The {key} is {value}." for key, value in call.items())
        prompt = wording.format(keys=_listed(call), facts=facts, request=tool.request.format(**call))
        return Task(prompt, {self.renamed.get(key, key): value for key, value in call.items()})

    def feedback(self, faults: Faults, expected: Mapping[str, str]) -> str:
        """Describe the faults of a reply that has some."""
        if faults.unreadable:
            return faults.unreadable
        said = [f'The key "{key}" is missing.' for key in faults.missing]
        said += [f'The key "{key}" was not asked for.' for key in faults.unknown]
        said += [
            f'The value of "{key}" is {json.dumps(found)}, but it should be {json.dumps(value)}.'
            for key, found, value in faults.wrong
        ]
        return " ".join(said)


class RenamedKey(ToolJson):
    """The prompt documents an API that has changed since: only its error message says how."""

    renamed: ClassVar[Mapping[str, str]] = {"tool": "action"}

    def feedback(self, faults: Faults, expected: Mapping[str, str]) -> str:
        said = [f'unknown key "{key}"' for key in faults.unknown]
        said += [f'missing key "{key}"' for key in faults.missing]
        said += [f'wrong value of "{key}"' for key, _, _ in faults.wrong]
        return f"The API says: {', '.join(said) or 'not a flat JSON object'}. The form is: {_form(expected)}"


class NoKeys(ToolJson):
    """The prompt says nothing of the API; only its error message shows the form that it takes."""

    wordings: ClassVar[Sequence[str]] = (
        'Turn the request into one line of JSON for the home API. Request: "{request}"',
        'Turn the request into one line of JSON for the home API: "{request}"',
    )

    def feedback(self, faults: Faults, expected: Mapping[str, str]) -> str:
        return f"The API wants one flat JSON object of this form: {_form(expected)}"


ENVIRONMENTS: Mapping[str, ToolJson] = {
    "tool-json": ToolJson(),
    "renamed-key": RenamedKey(),
    "no-keys": NoKeys(),
}


def data_source(environment: str) -> str:
    """Return the name of an environment in verl's rows and metrics."""
    return environment.replace("-", "_")


def make_tasks(environment: str, split: str, count: int, seed: int) -> list[Task]:
    """Draw `count` different tasks; kinds of tool and wording come in turn.

    Raises:
        ValueError: on an unknown split, or when there are fewer than `count` tasks.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}.")
    asker = ENVIRONMENTS[environment]
    kinds = []
    for tool in TOOLS:
        calls = _calls_of(tool, split, seed)
        for wording in asker.wordings:
            kind = [asker.task(tool, wording, call) for call in calls]
            random.Random(f"{seed}/{wording}").shuffle(kind)
            kinds.append(kind)
    tasks = [task for task in chain.from_iterable(zip_longest(*kinds)) if task][:count]
    if len(tasks) < count:
        raise ValueError(f"asked for {count} {split} tasks, but there are only {len(tasks)}. Ask for fewer.")
    return tasks


def _calls_of(tool: Tool, split: str, seed: int) -> list[dict[str, str]]:
    """This split's share of all calls of a tool."""
    values = product(*(VALUES[argument].split() for argument in tool.arguments))
    calls = [{"tool": tool.name, **dict(zip(tool.arguments, row, strict=True))} for row in values]
    random.Random(f"{seed}/{tool.request}").shuffle(calls)
    cut = round(len(calls) * HELDOUT_SHARE)
    return calls[:cut] if split == "heldout" else calls[cut:]


def _listed(keys: Iterable[str]) -> str:
    *most, last = [f'"{key}"' for key in keys]
    return f"{', '.join(most)} and {last}"


def _form(expected: Mapping[str, str]) -> str:
    """The expected object with its arguments left open: the tool's name, which comes first, stays."""
    tool, *arguments = expected
    return json.dumps({tool: expected[tool], **dict.fromkeys(arguments, "...")})


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Grade one reply: 1.0 if its first flat JSON object is exactly the expected one, else 0.0.

    Args:
        data_source: which environment says what is wrong.
        ground_truth: the expected object, as JSON.
        extra_info, kwargs: what else verl passes; not needed.

    Returns:
        `score` and `acc`, and `feedback`: what is wrong, in words; empty exactly when the reply is right.
    """
    feedback = find_fault(data_source.replace("_", "-"), solution_str, json.loads(ground_truth))
    score = 0.0 if feedback else 1.0
    return {"score": score, "acc": score, "feedback": feedback}


def find_fault(environment: str, reply: str, expected: Mapping[str, str]) -> str:
    """Say what is wrong with a reply, or nothing."""
    faults = find_faults(reply, expected)
    return ENVIRONMENTS[environment].feedback(faults, expected) if any(faults) else ""


def find_faults(reply: str, expected: Mapping[str, str]) -> Faults:
    flat_object = re.search(r"\{[^{}]*\}", reply)
    if flat_object is None:
        return Faults(f"There is no flat JSON object in the reply. Write one with the keys {_listed(expected)}.")
    try:
        found = json.loads(flat_object[0])
    except json.JSONDecodeError as error:
        return Faults(f"The JSON object is not valid: {error.msg} in line {error.lineno}, column {error.colno}.")
    return Faults(
        missing=[key for key in expected if key not in found],
        unknown=[key for key in found if key not in expected],
        wrong=[(key, found[key], value) for key, value in expected.items() if key in found and found[key] != value],
    )
