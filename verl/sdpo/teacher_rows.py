"""Teacher rows of a training step: the teacher's prompt before the student's own response, for every sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from verl.sdpo.checks import BLOCK
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.context import Feedback, Groups, Message, Rollout, teacher_context
from verl.sdpo.prompt import TeacherPrompt, fit_teacher_prompt, render

# Metric: tokens of the rows that have a teacher context.
# verl adds up, over the updates of an asynchronous step, what is called a total.
TEACHER_TOKENS = "self_distillation/total_teacher_tokens"
# Tokens of a prompt around the place where two prompts begin to differ, in the error about it.
EXCERPT = 80

Tool = dict[str, Any]
TokenizeChat = Callable[[Sequence[Message], Sequence[Tool] | None], list[int]]


@dataclass(frozen=True)
class Sample:
    """One rollout as tokens."""

    rollout: Rollout
    prompt_ids: torch.Tensor
    """(prompt length,), tokens that the student read."""
    response_ids: torch.Tensor
    """(response length,)."""


@dataclass(frozen=True)
class TeacherRows:
    """Additions of a step to its batch, in the order of the samples."""

    input_ids: list[torch.Tensor]
    """(teacher prompt + response,) each; the student's own row where there is no teacher context."""
    weights: torch.Tensor
    """(B,) float, the weight of its question where a sample has a teacher context, else 0."""
    reward_weights: torch.Tensor
    """(B,) float, 0 for a sample that could not be graded, so that its reward says nothing."""
    prompts: list[TeacherPrompt]
    groups: Groups
    metrics: dict[str, float]
    warning: str | None
    """Message to the user about a step that teaches nothing."""


def teacher_prompts(
    config: SelfDistillationConfig, rollouts: Sequence[Rollout], groups: Groups, markup: Sequence[str] = ()
) -> list[TeacherPrompt]:
    """Return the prompt of every rollout's teacher, of any length.

    Args:
        groups: the groups of all rollouts of the step.
        markup: see `teacher_context`.
    """
    prompts = []
    for rollout in rollouts:
        is_taught = config.routing.teaches_successes or not groups.grading.is_success(rollout.score)
        shown = teacher_context(rollout, groups, config.sections, markup) if is_taught else []
        prompts.append(render(rollout, shown, config.prompt))
    return prompts


def question_weights(config: SelfDistillationConfig, rollouts: Sequence[Rollout], groups: Groups) -> list[float]:
    """Return how much the question of each rollout counts; 0 where nothing was graded."""
    rates = [group.success_rate for group in groups.values()]
    weights = dict(zip(groups, config.question_weights.weigh(rates), strict=True))
    return [weights.get(rollout.uid, 0.0) for rollout in rollouts]


def coverage(rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt], groups: Groups) -> dict[str, float]:
    """Return the metrics of a step's contexts, under the authors' names. Rows that were not graded do not count.

    `success_sample_fraction` is, as in the authors' code, the share of samples that *got a demonstration*.
    """
    graded = [(rollout, prompt) for rollout, prompt in zip(rollouts, prompts, strict=True) if rollout.graded]
    solved = sum(bool(group.successes) for group in groups.values())
    samples = max(len(graded), 1)
    return {
        "self_distillation/success_group_fraction": solved / max(len(groups), 1),
        "self_distillation/success_sample_fraction": sum(p.demonstration is not None for _, p in graded) / samples,
        "self_distillation/feedback_available_fraction": sum(r.feedback is not None for r, _ in graded) / samples,
        "self_distillation/feedback_used_fraction": sum(p.feedback is not None for _, p in graded) / samples,
        "self_distillation/reprompt_sample_fraction": sum(p.has_context for _, p in graded) / samples,
        "self_distillation/truncated_reprompt_fraction": sum(p.truncated for _, p in graded) / samples,
    }


def _remembering(tokenize_chat: TokenizeChat) -> TokenizeChat:
    """Return a `tokenize_chat` that tokenises equal chats once.

    The samples of a group share their question, and often their teacher's prompt.
    """
    seen: dict[str, list[int]] = {}

    def tokenize(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[int]:
        key = repr((messages, tools))
        if key not in seen:
            seen[key] = tokenize_chat(messages, tools)
        return seen[key]

    return tokenize


@dataclass(frozen=True)
class TeacherRowBuilder:
    """Builder of a step's teacher rows."""

    config: SelfDistillationConfig
    tokenize_chat: TokenizeChat
    """Function from messages and tools to the token ids of the prompt, generation header included."""
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    tool_schemas: Mapping[str, Tool] = field(default_factory=dict)
    """Schemas of all tools that the student may use, by name."""
    markup: Sequence[str] = ()
    """Special tokens of the tokenizer, which come from the chat template alone."""

    def build(self, samples: Sequence[Sample], step: int) -> TeacherRows:
        """Build the teacher row of every sample.

        Raises:
            ValueError: when the student's prompt is not its messages in the chat template, or nothing of a prompt that
                is too long may be cut.
            RuntimeError: when too many samples could not be graded.
        """
        return replace(self, tokenize_chat=_remembering(self.tokenize_chat))._build(samples, step)

    def _build(self, samples: Sequence[Sample], step: int) -> TeacherRows:
        rollouts = [sample.rollout for sample in samples]
        metrics = {"self_distillation/grader_error_fraction": self._grader_error_rate(rollouts, step)}
        # Samples without a teacher context are checked too: others may be shown their responses.
        tools = [None if sample.rollout.is_padding else self.tools_shown(sample, step) for sample in samples]
        groups = Groups(rollouts, self.config.grading, step)
        prompts = teacher_prompts(self.config, rollouts, groups, self.markup)
        rows, prompt_lens = [], []
        for i, sample in enumerate(samples):
            prompt_ids = sample.prompt_ids
            if prompts[i].has_context:
                prompts[i], token_ids = self._fit(prompts[i], sample.rollout, tools[i])
                prompt_ids = torch.tensor(token_ids, dtype=prompt_ids.dtype)
            # Again, as truncation may have taken the whole context.
            if prompts[i].has_context:
                prompt_lens.append(len(prompt_ids))
            rows.append(torch.cat([prompt_ids, sample.response_ids]))

        metrics |= coverage(rollouts, prompts, groups)
        if prompt_lens:
            metrics["self_distillation/teacher_prompt_length/mean"] = sum(prompt_lens) / len(prompt_lens)
            metrics["self_distillation/teacher_prompt_length/max"] = max(prompt_lens)
        has_context = torch.tensor([float(prompt.has_context) for prompt in prompts])
        weights = has_context * torch.tensor(question_weights(self.config, rollouts, groups))
        warning = None if weights.any() else self._nothing_taught(rollouts, prompts, step)
        metrics[TEACHER_TOKENS] = sum(len(row) for row, weight in zip(rows, weights.tolist(), strict=True) if weight)
        reward_weights = torch.tensor([float(rollout.graded) for rollout in rollouts])
        return TeacherRows(rows, weights, reward_weights, prompts, groups, metrics, warning)

    def _grader_error_rate(self, rollouts: Sequence[Rollout], step: int) -> float:
        """Return the share of rollouts that the reward function could not grade; raise when they are many."""
        errors = [rollout.grader_error for rollout in rollouts if not rollout.is_padding]
        rate, limit = sum(errors) / len(errors), self.config.grading.max_grader_error_rate
        if rate > limit:
            raise RuntimeError(
                f"step {step}: {rate:.1%} of {len(errors)} samples could not be graded, more than "
                f"{BLOCK}.max_grader_error_rate={limit}. Their rewards would be noise. "
                "Look for the grader's own error above, fix it, and resume from the last checkpoint."
            )
        return rate

    def _fit(
        self, prompt: TeacherPrompt, rollout: Rollout, tools: list[Tool] | None
    ) -> tuple[TeacherPrompt, list[int]]:
        return fit_teacher_prompt(
            prompt,
            rollout,
            self.config.prompt,
            tokenize_chat=lambda chat: self.tokenize_chat(chat, tools),
            encode=self.encode,
            decode=self.decode,
        )

    def tools_shown(self, sample: Sample, step: int) -> list[Tool] | None:
        """Return the schemas of the tools in the student's own prompt.

        A sample may choose its agent loop, and the tools that this shows (`extra_info.tool_selection`).

        Raises:
            ValueError: when the student's prompt is not its messages in the chat template, with or without tools.
        """
        rollout, prompt_ids = sample.rollout, sample.prompt_ids.tolist()
        # As verl's ToolAgentLoop chooses them (verl/experimental/agent_loop/tool_agent_loop.py:156).
        names = rollout.extra_info.get("tool_selection") or self.tool_schemas
        selected = [self.tool_schemas[name] for name in names if name in self.tool_schemas]
        choices = [selected, None] if self.tool_schemas else [None]
        renderings = [self.tokenize_chat(rollout.messages, tools) for tools in choices]
        if prompt_ids in renderings:
            return choices[renderings.index(prompt_ids)]
        got, expected = self._difference(prompt_ids, renderings[0])
        raise ValueError(
            f"step {step}, sample {rollout.uid}, attempt {rollout.attempt}: the agent loop gave the student a prompt "
            f"that is not the chat template's text for the sample's messages: it has {got!r} where {expected!r} is "
            "expected. No teacher prompt can be made that differs by the context only. Use verl's single-turn or tool "
            "agent loop, or put what your loop adds into the data. A template that prints the date changes at "
            "midnight: set the date in data.apply_chat_template_kwargs."
        )

    def _difference(self, one: list[int], other: list[int]) -> tuple[str, str]:
        """Return excerpts of two prompts from shortly before the first token that differs."""
        places = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        start = max(next(places, min(len(one), len(other))) - EXCERPT // 2, 0)
        return self.decode(one[start : start + EXCERPT]), self.decode(other[start : start + EXCERPT])

    def _nothing_taught(self, rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt], step: int) -> str:
        """Return the reasons why a step teaches nothing, and what to do."""
        grading, most = self.config.grading, self.config.prompt.max_reprompt_len
        instead = "learns from rewards alone" if self.config.routing.reads_rewards else "teaches nothing"
        if any(prompt.has_context for prompt in prompts):
            return (
                f"step {step}: NO TARGET. question_weight={self.config.choices.question_weight} gives no weight to any "
                f"question that has a teacher, so this step {instead}. Take questions that the model solves sometimes."
            )
        best = max((rollout.score for rollout in rollouts if rollout.graded), default=float("nan"))
        shows_feedback = any(section.is_on for section in self.config.sections if isinstance(section, Feedback))
        return (
            f"step {step}: NO TARGET. No sample has a demonstration or usable feedback, so this step {instead}. "
            f"Best score {best:.3g} against success_reward_threshold={grading.success_reward_threshold:.3g}; "
            f"{sum(rollout.feedback is not None for rollout in rollouts)} of {len(rollouts)} samples came with "
            f"feedback (include_environment_feedback={shows_feedback}); the contexts of "
            f"{sum(prompt.truncated for prompt in prompts)} were lost to max_reprompt_len={most}. "
            "A lone success is no demonstration for itself: raise rollout.n, lower the threshold, start from easier "
            "tasks, let the reward function return feedback, or raise max_reprompt_len."
        )
