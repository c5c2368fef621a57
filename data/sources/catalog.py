"""The table of datasets (`catalog.yaml`) as objects."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from data.records import DataError


@dataclass(frozen=True)
class Entry:
    """One dataset. The fields are the columns of `catalog.yaml`, explained at its top."""

    name: str
    family: str
    dataset: str | None
    kind: str | None
    licence: str
    prompt: str
    repo: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    file: str | None = None
    where: dict = field(default_factory=dict)
    category: str | None = None
    records: int | None = None


def load_catalog() -> dict[str, Entry]:
    """Return all datasets by the name that `--dataset-name` takes, in the order of the table."""
    text = Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8")
    return {name: Entry(name=name, **columns) for name, columns in yaml.safe_load(text).items()}


def find(name: str) -> Entry:
    """Return the dataset called `name`; raises `DataError` naming the known ones."""
    catalog = load_catalog()
    if name not in catalog:
        raise DataError(f"unknown dataset '{name}'; known are: {', '.join(catalog)}.")
    return catalog[name]


def as_markdown(catalog: dict[str, Entry]) -> str:
    """Return the table that `--list` prints and README.md shows."""
    header = [
        "dataset_name",
        "source",
        "revision",
        "filter",
        "data_source",
        "kind and grader",
        "records",
        "licence",
        "prompt",
    ]
    rows = [header, ["---"] * len(header), *(_cells(entry) for entry in catalog.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(entry: Entry) -> list[str]:
    source = ", ".join(filter(None, [entry.repo, entry.subset, entry.file or entry.split]))
    return [
        f"`{entry.name}`",
        source or "local copy (`--source`)",
        (entry.revision or "not pinned")[:12] if entry.repo else "-",
        "; ".join(f"{column} {_condition(allowed)}" for column, allowed in entry.where.items()) or "-",
        entry.dataset or "each row's own",
        entry.kind or "each row's own",
        "unknown" if entry.records is None else str(entry.records),
        entry.licence,
        entry.prompt,
    ]


def _condition(allowed: list | dict) -> str:
    if isinstance(allowed, dict):
        return f"from {allowed['from']} to before {allowed['before']}"
    return " or ".join(map(str, allowed))
