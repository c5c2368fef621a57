"""verl's synchronous V1 trainer plus one step: building the teacher batch."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl.experimental.agent_loop.utils import resolve_config_path
from verl.sdpo.adapters.stop import StoppableTrainer
from verl.sdpo.adapters.worker import SelfDistillationWorker
from verl.sdpo.config import BLOCK, TRAINER_MODE
from verl.sdpo.reprompt import (
    Message,
    Rollout,
    TeacherPrompt,
    build_teacher_prompts,
    fit_teacher_prompt,
    has_feedback,
    reprompt_metrics,
)
from verl.sdpo.test_time.log import conclusion
from verl.sdpo.test_time.training import QuestionSearch
from verl.tools.tool_registry import load_all_tools
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


def plain(field) -> list:
    """A non-tensor field as a list; TransferQueue hands it out as a tensordict stack, an array or a list subclass."""
    return field.tolist() if hasattr(field, "tolist") else list(field)


@register_trainer(TRAINER_MODE)
class SelfDistillationTrainer(StoppableTrainer):
    """Everything but the teacher batch and the actor's loss is verl's synchronous trainer."""

    def __init__(self, config: DictConfig):
        self.settings = omega_conf_to_dataclass(config.actor_rollout_ref.actor.self_distillation)
        self.search = QuestionSearch(config) if "test_time" in config else None
        super().__init__(config)

    def _init_resource_pool_mgr(self):
        super()._init_resource_pool_mgr()
        # verl builds a ref model only for a KL penalty; here it is the teacher, so the role changes in both mappings
        # (the resource pool manager holds a reference to `self.mapping`).
        role = Role.ActorRollout if Role.ActorRollout in self.role_worker_mapping else Role.ActorRolloutRef
        del self.role_worker_mapping[role]
        pool = self.mapping.pop(role)
        if self.settings.teacher_regularization != "live":
            role = Role.ActorRolloutRef
        self.role_worker_mapping[role] = ray.remote(SelfDistillationWorker)
        self.mapping[role] = pool

    def _init_tokenizer(self):
        super()._init_tokenizer()
        rollout = self.config.actor_rollout_ref.rollout
        paths = (rollout.multi_turn.tool_config_path, rollout.multi_turn.function_tool_path)
        tools = load_all_tools(*(resolve_config_path(path) if path else None for path in paths))
        self.tool_schemas = {
            tool.name: tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools
        }
        # The agent loop's own tokenisation (verl/experimental/agent_loop/agent_loop.py), so that student and teacher
        # prompts differ by the reprompt and by nothing else.
        self.prompt_builder = create_continuous_token_builder(
            self.tokenizer,
            hf_model_type=omega_conf_to_dataclass(self.config.actor_rollout_ref.model).hf_config.model_type,
            chat_template_kwargs=self.config.data.get("apply_chat_template_kwargs", {}),
        )

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with marked_timer("teacher_batch", self.timing_raw, color="cyan"):
            batch = self._add_teacher_rows(batch, metrics)
        if self._search_is_over():
            return batch
        batch = super()._update_actor(batch, metrics)
        for name in [name for name in metrics if name.startswith("actor/self_distillation/")]:
            metrics[name.removeprefix("actor/")] = metrics.pop(name)
        return batch

    def _add_teacher_rows(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Write `teacher_input_ids` (jagged, teacher prompt + response) and `self_distillation_mask` (B,)."""
        fields = ["uid", "raw_prompt", "input_ids", "responses", "rm_scores", "extra_fields", "multi_modal_inputs"]
        if self.tool_schemas:
            fields.append("extra_info")
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        if any(plain(data["multi_modal_inputs"])):
            raise ValueError("the batch has images, video or audio: SDPO supports text only. Train on text prompts.")
        self._check_graders(batch, data, metrics)
        rollouts = self._rollouts(batch, data)
        if self.search is not None:
            self._log_attempts(self.search, batch, data, rollouts)
        seed = f"{self.settings.demonstration_seed}/{self.global_steps}"
        prompts = build_teacher_prompts(rollouts, self.settings, seed)
        extra_infos = plain(data["extra_info"]) if self.tool_schemas else [{}] * len(rollouts)
        rows = list(data["input_ids"].unbind())
        responses = data["responses"].unbind()
        prompt_lens = []
        for i, prompt in enumerate(prompts):
            if prompt.has_target:
                student_prompt = rows[i][: len(rows[i]) - len(responses[i])].tolist()
                tools = self._tools_shown(rollouts[i].messages, student_prompt, extra_infos[i])
                prompts[i], token_ids = self._fit(prompt, rollouts[i], tools)
                rows[i] = torch.cat([torch.tensor(token_ids, dtype=rows[i].dtype), responses[i]])
            if prompts[i].has_target:
                prompt_lens.append(len(rows[i]) - len(responses[i]))

        metrics.update(reprompt_metrics(rollouts, prompts, self.settings))
        if prompt_lens:
            metrics["self_distillation/teacher_prompt_length/mean"] = sum(prompt_lens) / len(prompt_lens)
            metrics["self_distillation/teacher_prompt_length/max"] = max(prompt_lens)
        else:
            self._report_no_target(rollouts, prompts)
        if self.config.trainer.rollout_data_dir:
            self._dump_teacher_prompts(rollouts, prompts)

        targets = torch.tensor([float(prompt.has_target) for prompt in prompts])
        teacher = {
            "teacher_input_ids": torch.nested.as_nested_tensor(rows, layout=torch.jagged),
            "self_distillation_mask": targets,
        }
        # Only the meta that comes back carries the new fields to the workers.
        extra_info = batch.extra_info
        batch = tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(teacher, batch_size=len(rows))
        )
        batch.extra_info.update(extra_info)
        return batch

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.search is not None:
            note = self.search.resume(self.global_steps)
            if note:
                logger.warning(note)
            self._search_is_over()

    def _log_attempts(
        self, search: QuestionSearch, batch: KVBatchMeta, data: TensorDict, rollouts: Sequence[Rollout]
    ) -> None:
        extra_fields, input_ids, responses = plain(data["extra_fields"]), data["input_ids"], data["responses"]
        lengths = input_ids.offsets().diff().tolist(), responses.offsets().diff().tolist()
        real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        for i in sorted(real, key=lambda i: rollouts[i].attempt):
            tokens = lengths[0][i] - lengths[1][i], lengths[1][i]
            search.record(self.global_steps, rollouts[i].response, tokens, extra_fields[i]["reward_extra_info"])

    def _search_is_over(self) -> bool:
        """Whether the question of a test-time run needs no more attempts; then verl's loop ends after this step."""
        if self.search is None or not self.search.over:
            return False
        # verl's fit() goes on while global_steps <= total_training_steps.
        self.total_training_steps = self.global_steps
        logger.warning(conclusion(self.search.log))
        return True

    def _check_graders(self, batch: KVBatchMeta, data: TensorDict, metrics: dict) -> None:
        """Count the samples that the reward function could not grade (`grader_error`), and stop when they are many."""
        infos = [
            extra.get("reward_extra_info", {})
            for tag, extra in zip(batch.tags, plain(data["extra_fields"]), strict=True)
            if not tag.get("is_padding", False)
        ]
        rate = sum(bool(info.get("grader_error", False)) for info in infos) / len(infos)
        metrics["self_distillation/grader_error_fraction"] = rate
        if rate > self.settings.max_grader_error_rate:
            raise RuntimeError(
                f"step {self.global_steps}: {rate:.1%} of {len(infos)} samples could not be graded, more than "
                f"{BLOCK}.max_grader_error_rate={self.settings.max_grader_error_rate}. Their rewards would be noise. "
                "Look for the grader's own error above, mend it, and resume from the last checkpoint."
            )

    def _rollouts(self, batch: KVBatchMeta, data: TensorDict) -> list[Rollout]:
        """The batch as plain Python. Rows that verl appended to fill the batch count as not graded."""
        responses = self.tokenizer.batch_decode(data["responses"].unbind(), skip_special_tokens=True)
        rollouts = []
        for key, tag, uid, messages, response, score, extra in zip(
            batch.keys,
            batch.tags,
            plain(data["uid"]),
            plain(data["raw_prompt"]),
            responses,
            data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist(),
            plain(data["extra_fields"]),
            strict=True,
        ):
            info = extra.get("reward_extra_info", {})
            graded = not tag.get("is_padding", False) and not info.get("grader_error", False)
            # Keys are {uid}_{session}_{index of the loop's output} (verl/trainer/ppo/v1/agent_loop_tq.py).
            attempt = int(key.rsplit("_", 2)[1])
            rollouts.append(Rollout(uid, attempt, messages, response, score, info.get("feedback"), graded))
        return rollouts

    def _tools_shown(
        self, messages: Sequence[Message], student_prompt: list[int], extra_info: dict[str, Any]
    ) -> list[dict[str, Any]] | None:
        """Schemas of the tools in the student's own prompt: a sample may choose its agent loop and its tools.

        Raises:
            ValueError: when the student's prompt is not its messages in the chat template, with or without tools.
        """
        if not self.tool_schemas:
            return None
        # As verl's ToolAgentLoop chooses them (verl/experimental/agent_loop/tool_agent_loop.py:156).
        names = extra_info.get("tool_selection") or self.tool_schemas
        selected = [self.tool_schemas[name] for name in names if name in self.tool_schemas]
        for tools in (selected, None):
            if self.prompt_builder.build_initial_tokens(messages, tools=tools) == student_prompt:
                return tools
        raise ValueError(
            f"step {self.global_steps}: the agent loop gave the student {self.tokenizer.decode(student_prompt)!r}, "
            "which is not the chat template's text for the sample's messages, so no teacher prompt can be made that "
            "differs by the reprompt only. Use verl's single-turn or tool agent loop, or put what your loop adds into "
            "the data."
        )

    def _fit(
        self, prompt: TeacherPrompt, rollout: Rollout, tools: list[dict[str, Any]] | None
    ) -> tuple[TeacherPrompt, list[int]]:
        return fit_teacher_prompt(
            prompt,
            rollout,
            self.settings,
            tokenize_chat=lambda chat: self.prompt_builder.build_initial_tokens(chat, tools=tools),
            encode=lambda text: self.tokenizer.encode(text, add_special_tokens=False),
            decode=self.tokenizer.decode,
        )

    def _report_no_target(self, rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt]) -> None:
        best = max((rollout.score for rollout in rollouts if rollout.graded), default=float("nan"))
        logger.warning(
            "step %d: NO TARGET. No sample has a demonstration or usable feedback, so this step teaches nothing. Best "
            "score %.3g against success_reward_threshold=%.3g; %d of %d samples came with feedback "
            "(include_environment_feedback=%s); %d lost theirs to max_reprompt_len=%d. A lone success is no "
            "demonstration for itself: raise rollout.n, lower the threshold, start from easier tasks, let the reward "
            "function return feedback, or raise max_reprompt_len.",
            self.global_steps,
            best,
            self.settings.success_reward_threshold,
            sum(has_feedback(rollout) for rollout in rollouts),
            len(rollouts),
            self.settings.include_environment_feedback,
            sum(prompt.truncated for prompt in prompts),
            self.settings.max_reprompt_len,
        )

    def _dump_teacher_prompts(self, rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt]) -> None:
        """Next to verl's rollout dump: what the teacher read before it scored each response."""
        self._dump_generations(
            inputs=[prompt.messages for prompt in prompts],
            outputs=[rollout.response for rollout in rollouts],
            gts=[None] * len(rollouts),
            scores=[rollout.score for rollout in rollouts],
            reward_extra_infos_dict={
                "uid": [rollout.uid for rollout in rollouts],
                "feedback": [rollout.feedback for rollout in rollouts],
                "has_target": [prompt.has_target for prompt in prompts],
            },
            dump_path=os.path.join(self.config.trainer.rollout_data_dir, "teacher"),
        )
