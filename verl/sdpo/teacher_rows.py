"""From a step's rollouts to what the teacher reads: its prompt before the student's own response, for every sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from verl.sdpo.checks import BLOCK
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.reprompt import (
    Message,
    Rollout,
    TeacherPrompt,
    build_teacher_prompts,
    fit_teacher_prompt,
    has_feedback,
    reprompt_metrics,
)

# Metric: tokens of the teacher's rows, which are those with a target.
# verl adds up, over the updates of an asynchronous step, what is called a total.
TEACHER_TOKENS = "self_distillation/total_teacher_tokens"

Tool = dict[str, Any]
TokenizeChat = Callable[[Sequence[Message], Sequence[Tool] | None], list[int]]


@dataclass(frozen=True)
class Sample:
    """One rollout as tokens."""

    rollout: Rollout
    prompt_ids: torch.Tensor
    """(prompt length,), what the student read."""
    response_ids: torch.Tensor
    """(response length,)."""
    is_padding: bool = False
    """Not a rollout: fills the batch up."""
    tool_selection: Sequence[str] | None = None
    """Names of the tools that this sample's agent loop shows; None: all."""
    reward: Mapping[str, Any] = field(default_factory=dict)
    """All that the reward function returned."""

    @property
    def grader_error(self) -> bool:
        """Whether the reward function could not grade it."""
        return bool(self.reward.get("grader_error", False))


@dataclass(frozen=True)
class TeacherRows:
    """What a step adds to its batch, in the order of the samples."""

    input_ids: list[torch.Tensor]
    """(teacher prompt + response,) each; the student's own row where the teacher knows nothing."""
    weights: torch.Tensor
    """(B,) float, the weight of its question where the teacher knows something, else 0."""
    reward_weights: torch.Tensor
    """(B,) float, 0 where the reward says nothing: what could not be graded."""
    prompts: list[TeacherPrompt]
    metrics: dict[str, float]
    warning: str | None
    """What to tell the user of a step that teaches nothing."""


def teacher_prompts(
    config: SelfDistillationConfig, rollouts: Sequence[Rollout], step: int, markup: Sequence[str] = ()
) -> tuple[list[TeacherPrompt], list[float]]:
    """What the teacher of each rollout reads, of any length, and how much the rollout's question counts.

    Args:
        rollouts: the whole batch, all groups.
        step, markup: see `build_teacher_prompts`.
    """
    threshold = config.reprompt.success_reward_threshold
    prompts = build_teacher_prompts(rollouts, config.reprompt, config.demonstrations, step, markup)
    if not config.routing.teaches_successes:
        prompts = [
            TeacherPrompt(list(rollout.messages)) if rollout.score >= threshold else prompt
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
    groups: dict[str, list[bool]] = {}
    for rollout in rollouts:
        if rollout.graded:
            groups.setdefault(rollout.uid, []).append(rollout.score >= threshold)
    rates = [sum(group) / len(group) for group in groups.values()]
    weights = dict(zip(groups, config.question_weights.weigh(rates), strict=True))
    # What was not graded has no target anyhow.
    return prompts, [weights.get(rollout.uid, 0.0) for rollout in rollouts]


def _remembering(tokenize_chat: TokenizeChat) -> TokenizeChat:
    """Equal chats once: a group shares its question, and nearly all of it the teacher's prompt."""
    seen: dict[str, list[int]] = {}

    def tokenize(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[int]:
        key = repr((messages, tools))
        if key not in seen:
            seen[key] = tokenize_chat(messages, tools)
        return seen[key]

    return tokenize


@dataclass(frozen=True)
class TeacherRowBuilder:
    """Makes the teacher's rows of a step."""

    config: SelfDistillationConfig
    tokenize_chat: TokenizeChat
    """Messages and tools -> token ids of the prompt, generation header included."""
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    tool_schemas: Mapping[str, Tool] = field(default_factory=dict)
    """Of all tools that the student may use, by name."""
    markup: Sequence[str] = ()
    """The tokenizer's special tokens, which come from the chat template alone."""

    def build(self, samples: Sequence[Sample], step: int) -> TeacherRows:
        """
        Raises:
            ValueError: when the student's prompt is not its messages in the chat template, or nothing of a prompt that
                is too long may be cut.
            RuntimeError: when too many samples could not be graded.
        """
        return replace(self, tokenize_chat=_remembering(self.tokenize_chat))._build(samples, step)

    def _build(self, samples: Sequence[Sample], step: int) -> TeacherRows:
        metrics = {"self_distillation/grader_error_fraction": self._grader_error_rate(samples, step)}
        rollouts = [sample.rollout for sample in samples]
        prompts, question_weights = teacher_prompts(self.config, rollouts, step, self.markup)
        rows, prompt_lens = [], []
        for i, sample in enumerate(samples):
            prompt_ids = sample.prompt_ids
            if prompts[i].has_context:
                prompts[i], token_ids = self._fit(prompts[i], sample, step)
                prompt_ids = torch.tensor(token_ids, dtype=prompt_ids.dtype)
            if prompts[i].has_context:
                prompt_lens.append(len(prompt_ids))
            rows.append(torch.cat([prompt_ids, sample.response_ids]))

        metrics |= reprompt_metrics(rollouts, prompts, self.config.reprompt)
        if prompt_lens:
            metrics["self_distillation/teacher_prompt_length/mean"] = sum(prompt_lens) / len(prompt_lens)
            metrics["self_distillation/teacher_prompt_length/max"] = max(prompt_lens)
        # Again, as truncation may have taken what a prompt knew.
        targets = torch.tensor([float(prompt.has_context) for prompt in prompts])
        weights = targets * torch.tensor(question_weights)
        warning = None if weights.any() else self._no_target(rollouts, prompts, step)
        metrics[TEACHER_TOKENS] = sum(len(row) for row, weight in zip(rows, weights.tolist(), strict=True) if weight)
        reward_weights = torch.tensor([float(rollout.graded) for rollout in rollouts])
        return TeacherRows(rows, weights, reward_weights, prompts, metrics, warning)

    def _grader_error_rate(self, samples: Sequence[Sample], step: int) -> float:
        """The share of samples that the reward function could not grade; an error when they are many."""
        errors = [sample.grader_error for sample in samples if not sample.is_padding]
        rate, limit = sum(errors) / len(errors), self.config.reprompt.max_grader_error_rate
        if rate > limit:
            raise RuntimeError(
                f"step {step}: {rate:.1%} of {len(errors)} samples could not be graded, more than "
                f"{BLOCK}.max_grader_error_rate={limit}. Their rewards would be noise. "
                "Look for the grader's own error above, mend it, and resume from the last checkpoint."
            )
        return rate

    def _fit(self, prompt: TeacherPrompt, sample: Sample, step: int) -> tuple[TeacherPrompt, list[int]]:
        tools = self.tools_shown(sample, step)
        return fit_teacher_prompt(
            prompt,
            sample.rollout,
            self.config.reprompt,
            tokenize_chat=lambda chat: self.tokenize_chat(chat, tools),
            encode=self.encode,
            decode=self.decode,
        )

    def tools_shown(self, sample: Sample, step: int) -> list[Tool] | None:
        """Schemas of the tools in the student's own prompt: a sample may choose its agent loop and its tools.

        Raises:
            ValueError: when the student's prompt is not its messages in the chat template, with or without tools.
        """
        if not self.tool_schemas:
            return None
        # As verl's ToolAgentLoop chooses them (verl/experimental/agent_loop/tool_agent_loop.py:156).
        names = sample.tool_selection or self.tool_schemas
        selected = [self.tool_schemas[name] for name in names if name in self.tool_schemas]
        prompt_ids = sample.prompt_ids.tolist()
        for tools in (selected, None):
            if self.tokenize_chat(sample.rollout.messages, tools) == prompt_ids:
                return tools
        raise ValueError(
            f"step {step}: the agent loop gave the student {self.decode(prompt_ids)!r}, "
            "which is not the chat template's text for the sample's messages, so no teacher prompt can be made that "
            "differs by the reprompt only. Use verl's single-turn or tool agent loop, or put what your loop adds into "
            "the data."
        )

    def _no_target(self, rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt], step: int) -> str:
        config = self.config.reprompt
        instead = "learns from rewards alone" if self.config.routing.reads_rewards else "teaches nothing"
        if any(prompt.has_context for prompt in prompts):
            return (
                f"step {step}: NO TARGET. question_weight={self.config.choices.question_weight} gives no weight to any "
                f"question that has a teacher, so this step {instead}. Take questions that the model solves sometimes."
            )
        best = max((rollout.score for rollout in rollouts if rollout.graded), default=float("nan"))
        return (
            f"step {step}: NO TARGET. No sample has a demonstration or usable feedback, so this step {instead}. "
            f"Best score {best:.3g} against success_reward_threshold={config.success_reward_threshold:.3g}; "
            f"{sum(map(has_feedback, rollouts))} of {len(rollouts)} samples came with feedback "
            f"(include_environment_feedback={config.include_environment_feedback}); "
            f"{sum(prompt.truncated for prompt in prompts)} lost theirs to max_reprompt_len={config.max_reprompt_len}. "
            "A lone success is no demonstration for itself: raise rollout.n, lower the threshold, start from easier "
            "tasks, let the reward function return feedback, or raise max_reprompt_len."
        )
