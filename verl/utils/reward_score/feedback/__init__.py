"""Graders that return a score and say why.

`compute_score` is the reward function for verl: `reward.custom_reward_function.path=pkg://verl.utils.reward_score.feedback`.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

# Absolute imports, so that verl can also load this file by its path.
from verl.utils.reward_score.feedback import gpqa, math_answer, mcq, mmlu_pro, programs, tooluse
from verl.utils.reward_score.feedback.contract import Grade, Options, Reveal, Task, Verdict, to_result
from verl.utils.reward_score.feedback.sandbox import SandboxUnavailable

__all__ = ["DATA_SOURCES", "check_data_sources", "compute_score"]

logger = logging.getLogger(__name__)


class DataSource(NamedTuple):
    grade: Callable[[Task], Grade]
    reveal: Reveal


# By default nothing about a single gold answer is shown. What a failed test expected is no answer to a programming
# task, and the paper's feedback shows it.
DATA_SOURCES = {
    name: DataSource(module.grade, reveal)
    for module, reveal, names in (
        (mcq, Reveal.FORM, "sciknoweval"),
        (gpqa, Reveal.FORM, "gpqa"),
        (mmlu_pro, Reveal.FORM, "mmlu_pro"),
        (math_answer, Reveal.FORM, "math math500 dapo_math gsm8k aime24 aime25 amc23"),
        (tooluse, Reveal.FORM, "tooluse"),
        (programs, Reveal.GOLD, "code livecodebench humanevalplus mbppplus codeforces code_elo"),
    )
    for name in names.split()
}

# verl passes these to every reward function when a reward model runs beside it.
_VERL_KWARGS = {"reward_router_address", "reward_model_tokenizer"}


def check_data_sources(names: Iterable[str], **kwargs: Any):
    """Find out before training whether every sample can be graded.

    Args:
        names: The data's `data_source` values.
        kwargs: Fields of `contract.Options`, the `reward_kwargs` of the training.

    Raises:
        ValueError: No grader knows one of the names, or an option is unknown.
        SandboxUnavailable: There is code to grade, and this machine cannot confine programs as far as the options ask.
    """
    graders = [_data_source(name).grade for name in set(names)]
    options = _options(kwargs)
    if programs.grade in graders:
        programs.start_sandbox(options.sandbox)


def _data_source(name: str) -> DataSource:
    if name not in DATA_SOURCES:
        raise ValueError(
            f"No grader for data_source {name!r}. Known: {', '.join(DATA_SOURCES)}. For a task of your own set "
            "reward.custom_reward_function.path to your reward function (docs/training.md)."
        )
    return DATA_SOURCES[name]


def _options(kwargs: dict[str, Any]) -> Options:
    return Options.from_kwargs({key: value for key, value in kwargs.items() if key not in _VERL_KWARGS})


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Grade one response and say why it failed.

    Safe to call from any thread. A grader that fails is tried once more; then the sample gets score 0, no feedback and
    `grader_error` 1, so that the trainer can leave it out of the loss.

    Args:
        solution_str: The response's text without special tokens.
        extra_info: `index` names the sample in warnings, `problem` is the prompt's text, `truncated` whether the length
            limit cut the response (`reward_manager.FeedbackRewardManager` sets it).
        kwargs: Fields of `contract.Options`.

    Returns:
        The dict of `contract.to_result`.

    Raises:
        ValueError: Unknown data source or option.
        SandboxUnavailable: This machine cannot confine programs as far as the options ask.
    """
    source, options, extra_info = _data_source(data_source), _options(kwargs), extra_info or {}
    task = Task(
        response=solution_str,
        ground_truth=ground_truth,
        problem=str(extra_info.get("problem") or ""),
        truncated=bool(extra_info.get("truncated", False)),
        reveal=options.reveal or source.reveal,
        options=options,
    )
    grade = _grade(source, task, name=f"{data_source} {extra_info.get('index', '(no index)')}")
    return to_result(grade, truncated=task.truncated)


def _grade(source: DataSource, task: Task, name: str) -> Grade:
    for last in (False, True):
        try:
            return source.grade(task)
        except SandboxUnavailable:
            raise
        except Exception as error:  # whatever fails in a grader must neither cost the model its reward nor end training
            again = "" if last else ", trying once more"
            logger.warning("%s failed on sample %s%s: %r", source.grade.__module__, name, again, error, exc_info=last)
    return Grade(Verdict.GRADER_ERROR)
