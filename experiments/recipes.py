"""Expand the recipes of `experiments/recipes/` to runs, for launcher.sh. Needs OmegaConf and nothing else of verl.

python -m experiments.recipes [--from FOLDER] RECIPE...

A recipe is a name from that folder, or the path of a yaml file, relative to `--from`. docs/experiments.md says what may
stand in it. Prints bash: the folders that user.yaml names, then a line per run.
"""

import argparse
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.overrides import number, override

HERE = Path(__file__).resolve().parent
USER_YAML = HERE.parent / "verl" / "trainer" / "config" / "user.yaml"
FOLDERS = {"SDPO_DIR": "dir", "SDPO_LOG_DIR": "log_dir", "SDPO_CKPT_DIR": "ckpt_dir"}
KEYS = ("base", "name", "group", "config", "overrides", "command", "flags", "task", "runs", "sweep")
# Keys whose entries are added to those of the bases; any other key replaces the bases' value.
MERGED = ("overrides", "flags", "sweep")
# Key of the configuration that an axis sets in every training.
AXIS_KEYS = {"model": "actor_rollout_ref.model.path", "seed": "vars.seed"}


class RecipeRun(NamedTuple):
    """One training of verl, or one run of another program."""

    name: str
    task: str
    """Data folder relative to SDPO_DIR, empty for a program without data."""
    config: str
    """Hydra configuration of a training, empty for a program."""
    words: list[str]
    """Overrides of a training, or the command of a program."""


def load(recipe: str, folder: Path) -> dict[str, Any]:
    """Return the recipe with its bases merged in, later ones over earlier ones.

    Args:
        recipe: a name from `experiments/recipes/`, or the path of a yaml file relative to `folder`.

    Raises:
        ValueError: there is no such recipe, or it holds a key that is not known.
    """
    path = folder / recipe if recipe.endswith(".yaml") else HERE / "recipes" / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (HERE / "recipes").glob("*.yaml")))
        raise ValueError(f"There is no recipe {path}. Known are {known}; other recipes are paths that end in .yaml.")
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    for key in content:
        if key not in KEYS:
            raise ValueError(f"{path}: there is no key '{key}'. A recipe may hold {', '.join(KEYS)}.")
    bases = content.pop("base", [])
    merged: dict[str, Any] = {}
    for layer in [*(load(base, path.parent) for base in ([bases] if isinstance(bases, str) else bases)), content]:
        added = {key: {**merged.get(key, {}), **layer.get(key, {})} for key in MERGED}
        merged = {**merged, **layer, **added}
    return merged


def expand(recipe: str, content: Mapping[str, Any], environment: Mapping[str, str], data: str) -> Iterator[RecipeRun]:
    """The runs of a recipe, in the order of its axes: the last one changes fastest.

    Args:
        content: of `load`.
        environment: DATASETS, SEEDS and so on replace the lists of the axes `dataset`, `seed`, ...
        data: the folder that holds the data folders.

    Raises:
        ValueError: the recipe is only a base of others, or lacks something.
    """
    if ("config" in content) == ("command" in content):
        raise ValueError(f"The recipe {recipe} needs a config or a command; without either it is a base of others.")
    if "name" not in content:
        raise ValueError(f"The recipe {recipe} needs a name for its runs, such as 'SDPO-{{dataset}}-seed{{seed}}'.")
    axes = {axis: choices(axis, values, environment) for axis, values in content.get("sweep", {}).items()}
    for combination in itertools.product(*axes.values()):
        fields = dict(zip(axes, (value for value, _ in combination), strict=True))
        settings = {key: value for _, own in combination for key, value in own.items()}
        yield make_run(content, fields, settings, environment, data)


def choices(axis: str, values: Sequence | Mapping, environment: Mapping[str, str]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the values of an axis with the overrides that each brings; the environment may choose the values."""
    named = values if isinstance(values, Mapping) else {value: {} for value in values}
    chosen = environment.get(f"{axis.upper()}S", "").split()
    if not chosen:
        return list(named.items())
    if not isinstance(values, Mapping):
        # A number in the environment is a text; as an override it must be a number again.
        kind = type(values[0])
        return [(kind(word), {}) for word in chosen]
    unknown = [word for word in chosen if word not in named]
    if unknown:
        raise ValueError(f"{axis.upper()}S: there is no {', '.join(unknown)}, only {', '.join(named)}.")
    return [(word, named[word]) for word in chosen]


def make_run(
    content: Mapping[str, Any],
    fields: dict[str, Any],
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
    data: str,
) -> RecipeRun:
    name = fill(content["name"], {axis: as_name(value) for axis, value in fields.items()})
    task = fill(content.get("task", "{dataset}" if "config" in content else ""), fields)
    if "config" in content:
        axes = {key: fields[axis] for axis, key in AXIS_KEYS.items() if axis in fields}
        overrides = {key: fill(value, fields) for key, value in content.get("overrides", {}).items()}
        # The task for the record of the run, which would name the variable TASK alone.
        words = {**axes, **overrides, "vars.task": task, **settings}
        return RecipeRun(name, task, content["config"], [override(key, value) for key, value in words.items()])
    fields = {**fields, "run": name, "data": os.path.join(data, task)}
    fields |= {"python": environment["LAUNCHER_PYTHON"], "gpus": environment.get("SITE_GPUS") or "1"}
    flags = [word for flag, value in content.get("flags", {}).items() for word in (f"--{flag}", value)]
    return RecipeRun(name, task, "", [str(fill(word, fields)) for word in (*content["command"], *flags)])


def fill(text: Any, fields: Mapping[str, Any]) -> Any:
    """Replace {axis} by the value of the axis; a text that is nothing else becomes that value, of whatever type."""
    if not isinstance(text, str):
        return text
    if text[1:-1] in fields and text == f"{{{text[1:-1]}}}":
        return fields[text[1:-1]]
    return re.sub(r"\{(\w+)\}", lambda match: str(fields.get(match[1], match[0])), text)


def as_name(value: Any) -> str:
    """Render a value for the name of a folder: the last part of a path, numbers as people write them."""
    return value.rstrip("/").rsplit("/", 1)[-1] if isinstance(value, str) else number(value)


def folders(origin: Path) -> dict[str, str]:
    """Return the folders of user.yaml, as a training has them that is started in this repository.

    Raises:
        OmegaConfBaseException: user.yaml refers to something that is not there.
        ValueError: the folder of the data is not there.
    """
    variables = OmegaConf.load(USER_YAML).vars
    found = {name: os.path.normpath(origin / variables[key]) for name, key in FOLDERS.items()}
    if not os.path.isdir(found["SDPO_DIR"]):
        raise ValueError(f"vars.dir (SDPO_DIR) is '{found['SDPO_DIR']}': there is no such folder.")
    return found


def script(recipes: Sequence[str], origin: Path) -> Iterator[str]:
    """Yield the lines that launcher.sh runs: the folders, then one line per run.

    Raises:
        ValueError: two runs have one name, or a name cannot be one. Names are those of folders, jobs, and wandb's runs.
    """
    places = folders(origin)
    names = set()
    yield from (f"{name}={shlex.quote(folder)}" for name, folder in places.items())
    for recipe in recipes:
        content = load(recipe, origin)
        runs_dir = os.path.join(places["SDPO_DIR"], content["runs"]) if "runs" in content else places["SDPO_LOG_DIR"]
        yield shlex.join(["begin_recipe", content.get("group", ""), runs_dir])
        for run in expand(recipe, content, os.environ, places["SDPO_DIR"]):
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", run.name):
                raise ValueError(
                    f"The run name '{run.name}' is not 1 to 200 letters, digits, dots, dashes and underscores."
                )
            if run.name in names:
                raise ValueError(f"Two runs are called {run.name}: a swept value is missing from the name.")
            names.add(run.name)
            call = ["submit_training", run.name, run.config] if run.config else ["submit_run", run.name]
            yield shlex.join([*call, run.task, *run.words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="origin", type=Path, default=Path.cwd(), help="folder of relative paths")
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    args = parser.parse_args()
    # Runs start in this repository (job.sh), which is what user.yaml means by PWD.
    os.environ["PWD"] = str(HERE.parent)
    try:
        print("\n".join(script(args.recipes, args.origin)))
    except (ValueError, OmegaConfBaseException) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
