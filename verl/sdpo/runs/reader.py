"""Read the folder of a training, finished or in progress, as plain records.

A run is a folder that holds

- `metrics.jsonl`, or one `metrics-*.jsonl` per attempt: verl's file logger (`trainer.logger` with `file`,
  `VERL_FILE_LOGGER_PATH`);
- `hydra/.hydra/config.yaml`: its configuration (`hydra.run.dir`), which says where the answers are;
- `heldout/STEP.jsonl` or `trainer.validation_data_dir`: verl's dump of validation answers;
- `rollouts/STEP.jsonl`, `rollouts/insight/STEP.parquet` or `trainer.rollout_data_dir`: verl's dump and that of
  `runs/dump_schema.py`;
- `run.json`: algorithm, seed and steps, as the quickstart writes them.

The quickstart and the sweeps make such folders. All but the metrics may be missing.
"""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl.sdpo.context import Grading
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.runs.identity import trains

VALIDATION = re.compile(r"val-core/(?P<source>.+)/(?P<what>acc|reward|score)/mean@(?P<k>\d+)$")
# Keys in which runs of one method may differ, besides those that change no training.
PRIVATE = re.compile(r"(seed|total_training_steps)$")
# Keys whose value is a path, of which the last two parts identify the file.
PLACE = re.compile(r"(path|files)$")
METRICS = "metrics.jsonl"
SETTINGS = "run.json"


@dataclass(frozen=True)
class Answer:
    """One attempt at a question of the validation."""

    question: str
    text: str
    accuracy: float


class Run:
    """One training. Everything is read when it is first asked for.

    Args:
        name: of the method that the run belongs to; None to name it by its algorithm and settings.

    Raises:
        FileNotFoundError: the folder holds no metrics.
    """

    def __init__(self, folder: Path, name: str | None = None):
        self.folder, self.name = folder, name
        files = [folder / METRICS] if (folder / METRICS).is_file() else folder.glob("metrics-*.jsonl")
        self.metrics_files = sorted(files, key=lambda file: file.stat().st_mtime)
        if not self.metrics_files:
            found = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else "no such folder"
            raise FileNotFoundError(
                f"{folder}: expected the folder of a run, with {METRICS} or metrics-*.jsonl, found {found}. Train "
                f"with trainer.logger=[console,file] and VERL_FILE_LOGGER_PATH=RUN/{METRICS}."
            )

    @cached_property
    def config(self) -> DictConfig:
        """Composed configuration, empty where it was not kept."""
        file = self.folder / "hydra" / ".hydra" / "config.yaml"
        return OmegaConf.load(file) if file.is_file() else OmegaConf.create()  # type: ignore[return-value]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Algorithm, seed and steps as the quickstart writes them, empty where it did not train."""
        file = self.folder / SETTINGS
        return json.loads(file.read_text()) if file.is_file() else {}

    def _get(self, key: str, default: Any = None) -> Any:
        value = OmegaConf.select(self.config, key)
        return default if value is None else value

    @property
    def algorithm(self) -> str:
        """Algorithm in capitals, or the folder's name where it is unknown."""
        mode = self._get("actor_rollout_ref.actor.policy_loss.loss_mode")
        name = mode if mode == "sdpo" else self._get("algorithm.adv_estimator")
        return str(self.settings.get("algorithm") or name or self.folder.name).upper()

    @property
    def seed(self) -> int | None:
        """Seed of the training, where it is known."""
        return self.settings.get("seed", self._get("vars.seed"))

    @property
    def total_steps(self) -> int | None:
        """Training steps of the finished run, where they are known."""
        return self.settings.get("steps", self._get("trainer.total_training_steps"))

    @cached_property
    def metrics(self) -> dict[int, dict[str, float]]:
        """Step to the metrics that verl logged; the last ones of a step that was repeated after a restart."""
        steps: dict[int, dict[str, float]] = {}
        for file in self.metrics_files:
            for entry in _json_lines(file):
                numbers = {key: value for key, value in entry["data"].items() if isinstance(value, int | float)}
                steps.setdefault(entry["step"], {}).update(numbers)
        return dict(sorted(steps.items()))

    def series(self, name: str) -> dict[int, float]:
        """Return step to value of a metric, for the steps that logged it."""
        return {step: numbers[name] for step, numbers in self.metrics.items() if name in numbers}

    @cached_property
    def validations(self) -> dict[str, dict[int, float]]:
        """Data source to its avg@k by step."""
        found: dict[str, dict[int, float]] = {}
        for step, numbers in self.metrics.items():
            for name, value in numbers.items():
                if match := VALIDATION.match(name):
                    found.setdefault(match["source"], {})[step] = value
        return found

    @cached_property
    def hours(self) -> dict[int, float]:
        """Step to the training time up to it (h), summed over steps: the paper's clock."""
        total, hours = 0.0, {}
        for step, numbers in self.metrics.items():
            total += numbers.get("timing_s/step", 0.0) / 3600
            hours[step] = total
        return hours

    @property
    def seconds_per_step(self) -> float | None:
        """Median time of a training step; None before the first has finished."""
        seconds = self.series("timing_s/step").values()
        return statistics.median(seconds) if seconds else None

    @cached_property
    def answers(self) -> dict[int, list[Answer]]:
        """Step to all answers of its validation, where verl dumped them."""
        folder = self._folder("heldout", "trainer.validation_data_dir")
        return {step: _answers(file) for step, file in _steps(folder, "jsonl").items()}

    @cached_property
    def sample_files(self) -> dict[int, Path]:
        """Step to the file of its training responses: the dump of `dump_schema.py`, else verl's."""
        folder = self._folder("rollouts", "trainer.rollout_data_dir")
        return {**_steps(folder, "jsonl"), **_steps(folder / dump.SUBFOLDER, "parquet")}

    def samples(self, step: int) -> list[dict[str, Any]]:
        """Return the training responses of a step that has a file."""
        key = "actor_rollout_ref.actor.self_distillation.success_reward_threshold"
        return read_samples(self.sample_files[step], self._get(key, 1.0))

    @cached_property
    def guard_events(self) -> list[dict[str, Any]]:
        """Events of the guard, in their order."""
        file = self._folder("checkpoints", "trainer.default_local_dir") / "guard.jsonl"
        return list(_json_lines(file)) if file.is_file() else []

    def _folder(self, name: str, key: str) -> Path:
        inside = self.folder / name
        return inside if inside.is_dir() else Path(str(self._get(key, inside)))


def read_samples(file: Path, success: float) -> list[dict[str, Any]]:
    """Return the responses of a step, in the columns of runs/dump_schema.py as far as they are known.

    Args:
        success: the lowest score of a solved question.
    """
    if file.suffix == ".parquet":
        return dump.read(file)
    samples, grading = [], Grading(success_reward_threshold=success)
    for entry in _json_lines(file):
        uid, _, session = entry["uid"].rpartition("_")[0].rpartition("_")
        sample = {"step": entry["step"], "uid": uid, "attempt": int(session), "question": entry["input"]}
        solved = {"score": entry["score"], "solved": grading.is_success(entry["score"]), "tokens": [entry["output"]]}
        samples.append({**sample, **solved, "response": entry["output"], "has_target": None, "graded": True})
    return samples


def methods(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ by their seed alone, by the name of their method.

    A run without a name is called by its algorithm, and by the settings or data in which runs of that algorithm differ.
    """
    algorithms: dict[str, list[Run]] = {}
    for run in runs:
        if run.name is None:
            algorithms.setdefault(run.algorithm, []).append(run)
    names = {run: name for group in algorithms.items() for run, name in _named(*group).items()}
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.name or names[run], []).append(run)
    return grouped


def _named(algorithm: str, runs: Sequence[Run]) -> dict[Run, str]:
    """Name runs of one algorithm by the settings in which they differ."""
    settings = [_method(run) for run in runs]
    keys = {key for flat in settings for key in flat if trains(key) and not PRIVATE.search(key)}
    # A run without a validation yet does not tell its data.
    differing = sorted(key for key in keys if len({str(flat.get(key)) for flat in settings} - {""}) > 1)
    return {
        run: ", ".join([algorithm, *(f"{key.rpartition('.')[2]}={flat.get(key)}" for key in differing)])
        for run, flat in zip(runs, settings, strict=True)
    }


def _method(run: Run) -> dict[str, str]:
    """Return flat settings and the validation's data: a configuration may take its data from the environment."""
    flat = _flat(OmegaConf.to_container(run.config, resolve=False))
    names = {
        key: "/".join(str(value).split("/")[-2:]) if PLACE.search(key) else str(value) for key, value in flat.items()
    }
    return {**names, "validation": " ".join(sorted(run.validations))}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    parts = (_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items())
    return {key: value for part in parts for key, value in part.items()}


def _answers(file: Path) -> list[Answer]:
    """Return the last output of every attempt, as verl scores it."""
    final: dict[str, Answer] = {}
    for entry in _json_lines(file):
        accuracy = entry.get("acc")
        score = float(entry["score"] if accuracy is None else accuracy)
        final[entry["uid"].rpartition("_")[0]] = Answer(entry["input"], entry["output"], score)
    return list(final.values())


def _steps(folder: Path, suffix: str) -> dict[int, Path]:
    files = {int(file.stem): file for file in folder.glob(f"*.{suffix}") if file.stem.isdigit()}
    return dict(sorted(files.items()))


def _json_lines(file: Path) -> Iterable[dict[str, Any]]:
    """Read the complete lines. The last may still be written to."""
    # Bytes: verl writes responses as they are, and text has other line separators that a model may write.
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    return map(json.loads, complete.splitlines())
