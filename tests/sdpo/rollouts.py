"""Rollouts, and the teacher's prompts for them under some keys of the block."""

from itertools import count

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.context import Groups, Rollout
from verl.sdpo.prompt import TeacherPrompt
from verl.sdpo.teacher_rows import teacher_prompts

QUESTION = [{"role": "user", "content": "Add 1 and 2."}]
ATTEMPTS = count()


def rollout(score=0.0, feedback=None, *, response="an answer", uid="group", messages=QUESTION, **fields):
    """One more attempt, later than all others."""
    reward = {} if feedback is None else {"feedback": feedback}
    return Rollout(uid, next(ATTEMPTS), messages, response, score, reward, **fields)


def build(rollouts, *, step=0, markup=(), **block) -> list[TeacherPrompt]:
    config = SelfDistillationConfig(**block)
    return teacher_prompts(config, rollouts, Groups(rollouts, config.grading, step), markup)


def attempts(*scores, **block):
    """The prompt of the first of as many rollouts, whose responses are `attempt 0`, `attempt 1`, ..."""
    reward = {"feedback": "too low"}
    return build(
        [Rollout("group", i, QUESTION, f"attempt {i}", score, reward) for i, score in enumerate(scores)], **block
    )[0]


def demonstrations(scores, **block):
    """The number of the attempt that each sample is shown."""
    rollouts = [Rollout("group", i, QUESTION, f"attempt {i}", score) for i, score in enumerate(scores)]
    chosen = [prompt.demonstration for prompt in build(rollouts, **block)]
    return [None if text is None else int(text.removeprefix("attempt ")) for text in chosen]
