"""The file of a step, and what goes into it. Workers' part: tests/sdpo/engine/test_recorder.py."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from tests.sdpo.rollouts import build, rollout
from verl.sdpo.context import Grading, Groups, Rollout, Shown
from verl.sdpo.preflight.validation import validate_dump
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.teacher_rows import Sample

MESSAGES = [{"role": "user", "content": "2+2?"}]


def sample(uid, attempt, is_padding=False):
    ids = torch.zeros(1, dtype=torch.long)
    return Sample(Rollout(uid, attempt, MESSAGES, "4", 1.0, is_padding=is_padding), ids, ids)


def test_whole_groups_are_chosen_up_to_the_limit():
    samples = [sample("b", 1), sample("a", 0), sample("c", 0), sample("b", 0), sample("a", 1), sample("0", 0, True)]
    assert dump.choose(samples, 5) == [1, 4, 3, 0, 2]
    assert dump.choose(samples, 4) == [1, 4, 3, 0]
    assert dump.choose(samples, 3) == [1, 4]
    # Of a group larger than the limit its first ones: better than nothing.
    assert dump.choose(samples, 1) == [1]


def test_chats_for_reading():
    assert dump.chat_text(MESSAGES) == "2+2?"
    assert (
        dump.chat_text([{"role": "system", "content": "Be brief."}, *MESSAGES]) == "[system]\nBe brief.\n\n[user]\n2+2?"
    )


def test_the_attempt_that_was_shown_is_known_even_if_cut():
    scores = {"four": 0.0, "it is four": 1.0, "it is <end>five": 1.0}
    rollouts = [rollout(score, "no", response=text) for text, score in scores.items()]
    groups, markup = Groups(rollouts, Grading(), step=0), ["<end>"]
    shown = build(rollouts, markup=markup)[1]
    section, _ = shown.shown[0]
    cut = replace(shown, shown=(Shown(section, "is < end>five"),))
    assert dump.demonstration_attempt(rollouts[1], cut, groups, markup) == rollouts[2].attempt
    (told,) = build([rollout(0.0, "no")])
    assert dump.demonstration_attempt(rollouts[0], told, groups, markup) is None


def test_tokens_that_were_not_compared_have_nothing(tmp_path):
    """Three tokens, the middle one a tool's."""
    said = {name: torch.tensor([0.5, -0.25]) for name in dump.PER_TOKEN} | {"position": torch.tensor([0, 2])}
    for model in dump.MODELS:
        said[f"{model}_best"] = torch.tensor([[1, 2, 3], [3, 2, 1]])
        said[f"{model}_best_log_probs"] = torch.tensor([[-0.5, -1.0, -2.0], [-0.25, -1.5, -4.0]])
    columns = dump.token_columns(said, 3, {1: "a", 2: "b", 3: "c"})
    assert columns["log_ratio"] == [0.5, None, -0.25]
    assert columns["teacher_best"] == ["a", "b", "c", None, None, None, "c", "b", "a"]
    assert columns["student_best_log_probs"] == [-0.5, -1.0, -2.0, None, None, None, -0.25, -1.5, -4.0]
    without = dump.token_columns(None, 3, {})
    assert without.keys() == columns.keys() <= set(dump.SCHEMA.names)
    dump.write(tmp_path / "7.parquet", [{"step": 7, **columns}, {"step": 7, **without}])
    first, second = dump.read(tmp_path / "7.parquet")
    assert first["log_ratio"] == [0.5, None, -0.25]
    assert first["student_best"] == columns["student_best"]
    assert second["log_ratio"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["7.parquet"]


@pytest.mark.parametrize("value", [-1, "many", 1.5, True])
def test_a_limit_that_is_none_is_refused_before_ray(value):
    with pytest.raises(ValueError, match=r"insight\.max_samples=.*: expected a whole number of responses"):
        validate_dump(OmegaConf.create({"insight": {"max_samples": value}}))
    validate_dump(OmegaConf.create({"insight": {"max_samples": 0}}))
