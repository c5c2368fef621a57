"""Can the model's chat template render the data?

verl counts a row that it cannot render as too long and leaves it out, with a stack trace among the output of its
workers (`verl/utils/dataset/rl_dataset.py:300`): a model without a system role then trains on a part of the data, or on
none. Templates decide by the roles of the messages, so one row of each sequence of roles is rendered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl.sdpo.config import is_sdpo
from verl.sdpo.preflight.data_files import local_files

FIX = (
    "Use a model whose chat template takes these messages, or set actor_rollout_ref.model.custom_chat_template; "
    "data/preprocess.py makes files of the right form."
)


@dataclass
class Kind:
    """The rows of one file whose messages have the same roles, by the first of them."""

    row: int
    data_source: str
    messages: list[dict[str, Any]]
    count: int = 0


def check_chat_template(config: Mapping) -> None:
    """Check the data of a training of ours (SDPO, or any with `user.yaml`).

    Raises:
        ValueError: naming file, row, data source and the template's own words.
    """
    data = config["data"]
    # A dataset class of the user's own may make messages of anything.
    if data["custom_cls"]["path"] or not (is_sdpo(config) or "vars" in config):
        return
    tokenizer = load_tokenizer(config["actor_rollout_ref"]["model"])
    for key in ("train_files", "val_files"):
        for file in local_files(data, key):
            if file.suffix == ".parquet" and file.is_file():
                problem = template_problem(file, data, tokenizer)
                if problem:
                    raise ValueError(f"data.{key}: {problem} {FIX}")


def load_tokenizer(model: Mapping):
    """The tokenizer that verl will use, or None if it is not on this disk. `model`: `actor_rollout_ref.model`."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model["tokenizer_path"] or model["path"],
            local_files_only=True,
            trust_remote_code=model["trust_remote_code"],
        )
    # Not there, or not to be loaded: verl says so itself.
    except (OSError, ValueError, ImportError):
        return None
    if model["custom_chat_template"] is not None:
        tokenizer.chat_template = model["custom_chat_template"]
    return tokenizer


def template_problem(file: Path, data: Mapping, tokenizer) -> str | None:
    """Return why verl could not render a row of a parquet file; None if it can.

    Args:
        data: the block `data` of the configuration.
        tokenizer: None looks at the form of the messages only.
    """
    try:
        kinds = read_kinds(file, data["prompt_key"])
    except ValueError as error:
        return str(error)
    for roles, kind in kinds.items() if tokenizer is not None else ():
        try:
            tokenizer.apply_chat_template(
                kind.messages,
                add_generation_prompt=True,
                **{**data["apply_chat_template_kwargs"], "tokenize": False},
            )
        # The template is a program that came with the model.
        except Exception as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            return (
                f"{file}: the chat template of {tokenizer.name_or_path} cannot render row {kind.row} (data_source "
                f"{kind.data_source}, roles {', '.join(roles)}): {words} - verl would leave out all {kind.count} rows "
                "with these roles."
            )
    return None


def read_kinds(file: Path, prompt_key: str) -> dict[tuple[str, ...], Kind]:
    """The rows of a parquet file by the roles of their messages.

    Raises:
        ValueError: a row is not a list of messages.
    """
    parquet = pq.ParquetFile(file)
    columns = {prompt_key, "data_source"} & set(parquet.schema_arrow.names)
    if prompt_key not in columns:
        raise ValueError(f"{file} has no column {prompt_key!r} (data.prompt_key).")
    form = parquet.schema_arrow.field(prompt_key).type
    if not is_list_of_messages(form):
        raise ValueError(f"{file}: {prompt_key!r} is {form}, expected a list of messages with role and content.")
    # The contents are most of a file, and needed of a few rows only.
    leaves = [parquet.schema.column(index).path for index in range(len(parquet.schema))]
    # A list has two levels of its own: prompt.list.element.role.
    (role,) = (leaf for leaf in leaves if leaf.startswith(f"{prompt_key}.") and leaf.split(".")[3:] == ["role"])
    kinds: dict[tuple[str, ...], Kind] = {}
    row = 0
    for group in range(parquet.num_row_groups):
        prompts = parquet.read_row_group(group, columns=[role]).column(0).combine_chunks()
        flat_roles = iter(prompts.flatten().field("role").to_pylist())
        for place, length in enumerate(prompts.value_lengths().to_pylist()):
            if not length:
                raise ValueError(f"{file}, row {row}: no message in {prompt_key!r}.")
            roles = tuple(str(role) for role in islice(flat_roles, length))
            if roles not in kinds:
                rows = next(parquet.iter_batches(place + 1, row_groups=[group], columns=sorted(columns)))
                (first,) = rows.slice(place).to_pylist()
                kinds[roles] = Kind(row, str(first.get("data_source")), first[prompt_key])
            kinds[roles].count += 1
            row += 1
    return kinds


def is_list_of_messages(form: pa.DataType) -> bool:
    if not (pa.types.is_list(form) or pa.types.is_large_list(form)) or not pa.types.is_struct(form.value_type):
        return False
    return {"role", "content"} <= {field.name for field in form.value_type}
