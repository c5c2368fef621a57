"""From verl's batch in TransferQueue to plain samples, and from verl's tokenizer to the builder of teacher rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.experimental.agent_loop.utils import resolve_config_path
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.reprompt import Message, Rollout
from verl.sdpo.teacher_rows import Sample, TeacherRowBuilder
from verl.tools.tool_registry import load_all_tools
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

FIELDS = ("uid", "raw_prompt", "input_ids", "responses", "rm_scores", "extra_fields", "multi_modal_inputs")


def plain(field) -> list:
    """A non-tensor field as a list; TransferQueue hands it out as a tensordict stack, an array or a list subclass."""
    return field.tolist() if hasattr(field, "tolist") else list(field)


def read_samples(batch: KVBatchMeta, tokenizer: Any, *, with_tools: bool) -> list[Sample]:
    """The samples of a batch, in its order. Rows that verl appended to fill the batch count as not graded.

    Args:
        with_tools: whether samples may choose their tools (`extra_info.tool_selection`).

    Raises:
        ValueError: on a sample with an image, video or audio.
    """
    fields = [*FIELDS, "extra_info"] if with_tools else list(FIELDS)
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    if any(plain(data["multi_modal_inputs"])):
        raise ValueError("the batch has images, video or audio: SDPO supports text only. Train on text prompts.")
    response_ids = data["responses"].unbind()
    extra_infos = plain(data["extra_info"]) if with_tools else [{}] * len(batch.keys)
    samples = []
    for key, tag, uid, messages, row, response, text, score, extra, extra_info in zip(
        batch.keys,
        batch.tags,
        plain(data["uid"]),
        plain(data["raw_prompt"]),
        data["input_ids"].unbind(),
        response_ids,
        tokenizer.batch_decode(response_ids, skip_special_tokens=True),
        data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist(),
        plain(data["extra_fields"]),
        extra_infos,
        strict=True,
    ):
        reward = extra.get("reward_extra_info", {})
        is_padding = tag.get("is_padding", False)
        rollout = to_rollout(key, uid, messages, text, score, reward)
        samples.append(
            Sample(
                replace(rollout, graded=rollout.graded and not is_padding),
                prompt_ids=row[: len(row) - len(response)],
                response_ids=response,
                is_padding=is_padding,
                tool_selection=extra_info.get("tool_selection"),
                reward=reward,
            )
        )
    return samples


def to_rollout(
    key: str, uid: str, messages: list[Message], response: str, score: float, reward: Mapping[str, Any]
) -> Rollout:
    """One attempt; its key is {uid}_{session}_{index of the loop's output} (verl/trainer/ppo/v1/agent_loop_tq.py).

    Args:
        reward: all that the reward function returned.
    """
    attempt = int(key.rsplit("_", 2)[1])
    return Rollout(
        uid, attempt, messages, response, score, reward.get("feedback"), not reward.get("grader_error", False)
    )


def special_tokens(tokenizer: Any) -> list[str]:
    """What marks turns, and whatever else the tokenizer reads as one special token wherever a text spells it."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens))


def make_row_builder(config: DictConfig, settings: SelfDistillationConfig, tokenizer: Any) -> TeacherRowBuilder:
    """With the agent loop's own tokenisation (verl/experimental/agent_loop/agent_loop.py), so that student and teacher
    prompts differ by the reprompt and by nothing else.

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
