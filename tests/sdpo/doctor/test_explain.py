"""`python -m verl.sdpo.doctor --explain KEY`."""

import re

import pytest

from tests.sdpo.test_config import BLOCK
from verl.sdpo.config import defaults
from verl.sdpo.doctor.__main__ import main
from verl.sdpo.doctor.explain import explain
from verl.sdpo.preflight.keys import CONFIGS, own_keys


def test_every_key_of_the_block_is_known_with_its_default_and_meaning():
    block = {key.name.removeprefix(f"{BLOCK}."): key for key in own_keys().values() if key.name.startswith(BLOCK)}
    assert {name: key.default for name, key in block.items()} == defaults()
    assert all(key.meaning and key.owners for key in own_keys().values())


def test_only_fields_of_ours_are_keys():
    (actor,) = (kind for path, kind in CONFIGS if path == "actor_rollout_ref.actor")
    assert [name for name in own_keys() if re.fullmatch(r"actor_rollout_ref\.actor\.\w+", name)] == [
        "actor_rollout_ref.actor.shared_prefix"
    ]
    assert "ppo_mini_batch_size" in actor.__dataclass_fields__


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "teacher_placement",
            ["default: 'auto'", "Teacher.Config", "offload_policy=True"],
        ),
        (f"{BLOCK}.alpha", ["default: 0.5", "expected a number in [0, 1]"]),
        ("policy_clip", ["bypass_mode=True", "which is left out", "Set policy_clip=null"]),
        ("head", ["verl.sdpo.config.Choices", "expected one of chunked, eager"]),
        ("shared_prefix", ["expected one of"]),
        ("insight.guard", ["default: 'warn'", "insight.guard=rollback", "that trainer has no guard"]),
        ("test_time.budget", ["none, it must be given", "whole number of attempts"]),
    ],
)
def test_a_key_is_explained(name, words):
    text = " ".join(explain(name).split())
    for each in words:
        assert each in text


def test_a_rule_in_a_loop_names_the_keys_of_the_loop():
    assert "algorithm.use_kl_in_reward" in explain("teacher_regularization")


def test_an_unknown_key_is_answered_with_similar_ones(capsys):
    with pytest.raises(ValueError, match=rf"--explain {BLOCK}\.alfa: SDPO adds no such key\. Similar: {BLOCK}\.alpha"):
        explain(f"{BLOCK}.alfa")
    assert main(["--explain", "guard_fall"]) == 0
    assert "insight.guard_fall" in capsys.readouterr().out
