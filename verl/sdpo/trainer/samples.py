"""verl's batch in TransferQueue as plain samples and back, and the builder of teacher rows with verl's tokenizer."""

from collections.abc import Mapping
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl.experimental.agent_loop.utils import resolve_config_path
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.context import Rollout
from verl.sdpo.teacher_rows import Sample, TeacherRowBuilder
from verl.sdpo.trainer.hooks import Update
from verl.tools.tool_registry import load_all_tools
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

FIELDS = (
    "uid",
    "raw_prompt",
    "input_ids",
    "responses",
    "rm_scores",
    "extra_fields",
    "extra_info",
    "multi_modal_inputs",
)


def plain(field) -> list:
    """Return a non-tensor field as a list.

    TransferQueue returns such a field as a tensordict stack, an array or a list subclass.
    """
    return field.tolist() if hasattr(field, "tolist") else list(field)


def read_samples(batch: KVBatchMeta, tokenizer: Any) -> list[Sample]:
    """Return the samples of a batch, in its order.

    Raises:
        ValueError: on a sample with an image, video or audio, or a session with several outputs.
    """
    attempts = [attempt_number(key) for key in batch.keys]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(FIELDS))
    if any(plain(data["multi_modal_inputs"])):
        raise ValueError("the batch has images, video or audio: SDPO supports text only. Train on text prompts.")
    response_ids = data["responses"].unbind()
    samples = []
    for attempt, tag, uid, messages, row, response, text, score, extra_fields, extra_info in zip(
        attempts,
        batch.tags,
        plain(data["uid"]),
        plain(data["raw_prompt"]),
        data["input_ids"].unbind(),
        response_ids,
        tokenizer.batch_decode(response_ids, skip_special_tokens=True),
        data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist(),
        plain(data["extra_fields"]),
        plain(data["extra_info"]),
        strict=True,
    ):
        rollout = Rollout(
            uid,
            attempt,
            messages,
            text,
            score,
            reward=extra_fields.get("reward_extra_info", {}),
            extra_info=extra_info,
            is_padding=tag.get("is_padding", False),
        )
        samples.append(Sample(rollout, prompt_ids=row[: len(row) - len(response)], response_ids=response))
    return samples


def read_rewards(batch: KVBatchMeta) -> list[Mapping[str, Any]]:
    """Return all that the reward function reported of each sample of a batch, without padding."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return [
        extra.get("reward_extra_info", {})
        for extra, tag in zip(plain(data["extra_fields"]), batch.tags, strict=True)
        if not tag.get("is_padding", False)
    ]


def write_columns(update: Update) -> KVBatchMeta:
    """Write the columns of an update into its batch, and return the batch in the order of the update."""
    if not update.columns:
        return update.batch
    batch = update.batch
    with marked_timer("teacher_batch", update.timing):
        columns = TensorDict(update.columns, len(batch.keys))
        # Only the meta that comes back carries the new fields to the workers.
        written = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=columns)
        written.extra_info.update(batch.extra_info)
        if update.order is not None:
            written.reorder(update.order)
    return written


def attempt_number(key: str) -> int:
    """Return the number of an attempt within its group, from its key {uid}_{session}_{index of the loop's output}.

    The form is that of verl/trainer/ppo/v1/agent_loop_tq.py.

    Raises:
        ValueError: on a later output of a session. All outputs have the sample's question for a prompt, so that its
            teacher would not read the turns before it, and a sibling would be shown one turn as the whole solution.
    """
    uid, session, output = key.rsplit("_", 2)
    if output != "0":
        raise ValueError(
            f"question {uid}, session {session}: the agent loop returned several outputs (row {key}), but SDPO expects "
            "one per session: the teacher of a later turn would not read the turns before it. Use verl's single-turn "
            "or tool agent loop, or let your loop's `run` return the session as one AgentLoopOutput, with "
            "response_mask 0 for the tokens of the environment."
        )
    return int(session)


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the tokens of the chat markup, and all others that the tokenizer reads wherever a text spells them."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens))


def make_row_builder(config: DictConfig, settings: SelfDistillationConfig, tokenizer: Any) -> TeacherRowBuilder:
    """Return a builder with the tokenisation of verl's agent loops (verl/experimental/agent_loop/agent_loop.py).

    With the same tokenisation, the prompts of student and teacher differ by the context and by nothing else.

    Args:
        config: the whole Hydra tree.
    """
    model, multi_turn = config.actor_rollout_ref.model, config.actor_rollout_ref.rollout.multi_turn
    chat = create_continuous_token_builder(
        tokenizer,
        hf_model_type=omega_conf_to_dataclass(model).hf_config.model_type,
        chat_template_kwargs=config.data.get("apply_chat_template_kwargs", {}),
    )
    paths = (multi_turn.tool_config_path, multi_turn.function_tool_path)
    tools = load_all_tools(*(resolve_config_path(path) if path else None for path in paths))
    return TeacherRowBuilder(
        settings,
        tokenize_chat=lambda messages, tools: chat.build_initial_tokens(messages, tools=tools),
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        decode=tokenizer.decode,
        tool_schemas={tool.name: tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools},
        markup=special_tokens(tokenizer),
    )
