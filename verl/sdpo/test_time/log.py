"""The log of one search: a header line with its configuration, then one JSON line per attempt, in order.

Names end in `.attempts.jsonl`. A log is complete when an attempt is confirmed or the budget is used up; one whose
header says `pool: true` only when the budget is used up.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUFFIX = ".attempts.jsonl"
SET_ASIDE = ".set-aside"


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the configuration and the attempts of a log, whose last line may be incomplete.

    Raises:
        ValueError: the file is no log of attempts 1, 2, ...; names the line.
    """
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    config: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    for number, line in enumerate(complete.splitlines()):
        try:
            entry = json.loads(line)
            usable = "config" in entry if number == 0 else entry["attempt"] == number
        except (ValueError, TypeError, KeyError):
            usable = False
        if not usable:
            expected = f"attempt {number}" if number else "the header with `config`"
            raise ValueError(f"{path}, line {number + 1}: expected {expected} as JSON, got {line[:100]!r}.")
        if number == 0:
            config = entry["config"]
        else:
            records.append(entry)
    return config, records


def result_fields(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result of `grading.grade` as fields of the log."""
    metrics = {key: value for key, value in result.items() if key not in ("score", "hidden", "confirmed")}
    return {
        "reward": result["score"],
        "confirmed": result["confirmed"],
        "hidden": result["hidden"],
        "metrics": metrics,
    }


def check_log(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the attempts of a log that a search with this configuration would continue; [] if there is none yet.

    Reads only, also beside a search that is running.

    Raises:
        ValueError: the file is no log, or its attempts were made with another configuration.
    """
    if not path.exists() or not path.stat().st_size:
        return []
    found, records = read_log(path)
    now = json.loads(json.dumps(config))
    differing = sorted(k for k in found.keys() | now.keys() if found.get(k) != now.get(k))
    if differing and records:
        changes = "; ".join(f"{k} was {found.get(k)!r:.100}, now {now.get(k)!r:.100}" for k in differing)
        raise ValueError(f"{path} was begun differently: {changes}. Repeat that, or take another run name.")
    return records


class AttemptLog:
    """Log of attempts that continues where an interrupted run stopped.

    A line that was cut off in the middle is moved to a file beside the log, whose name ends in `.set-aside`.

    Raises:
        ValueError: at construction, when the log belongs to another configuration or another running process.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]):
        self.path, self.config = path, json.loads(json.dumps(config))
        self.records: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{path} is being written by another process. Wait for it, or end it.") from error
        content = path.read_bytes()
        self._cut(content.rfind(b"\n") + 1)
        self.records = check_log(path, self.config)
        # One without an attempt may have been begun with other settings.
        if not self.records:
            os.truncate(path, 0)
            self._write({"config": self.config, "started": time.time()})

    def _write(self, entry: Mapping[str, Any]) -> None:
        # A lone half of a surrogate pair, which JSON can escape and UTF-8 cannot hold, stays an escape.
        self._file.write(json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _cut(self, size: int) -> None:
        """Move what follows the first `size` bytes to the file beside the log."""
        rest = self.path.read_bytes()[size:]
        if rest:
            with self.path.with_name(self.path.name + SET_ASIDE).open("ab") as file:
                file.write(rest.rstrip(b"\n") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.truncate(self.path, size)

    def append(self, **fields: Any) -> dict[str, Any]:
        """Write the next attempt, with its number."""
        record = {"attempt": len(self.records) + 1, "timestamp": time.time(), **fields}
        self._write(record)
        self.records.append(record)
        return record

    def keep(self, count: int) -> int:
        """Move all attempts after the first `count` beside the log, as they will be made again, and return how many."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        surplus = len(self.records) - count
        if surplus > 0:
            self._cut(sum(map(len, lines[: 1 + count])))
            del self.records[count:]
        return max(surplus, 0)

    @property
    def solved(self) -> bool:
        return any(record["confirmed"] for record in self.records)

    @property
    def left(self) -> int:
        """Attempts that may still be made."""
        if self.solved and not self.config.get("pool"):
            return 0
        return max(self.config["budget"] - len(self.records), 0)

    def close(self) -> None:
        self._file.close()


def conclusion(log: AttemptLog) -> str:
    question = log.config["question_id"]
    if log.config.get("pool"):
        confirmed = sum(record["confirmed"] for record in log.records)
        return f"{question}: {confirmed} of {len(log.records)} attempts confirmed on the hidden tests. {log.path}"
    if log.solved:
        return f"{question}: SOLVED by attempt {len(log.records)}, confirmed on the hidden tests. {log.path}"
    return f"{question}: not solved within the budget of {len(log.records)} attempts. {log.path}"
