from dataclasses import dataclass

import pytest

from verl.sdpo.config import SelfDistillationConfig, defaults, parse_block
from verl.sdpo.context import FirstSuccess, RandomSuccess
from verl.sdpo.objective import OBJECTIVES, Divergence, SampledToken
from verl.sdpo.teacher import ExponentialMovingAverage, Frozen, Live, TrustRegion

BLOCK = "actor_rollout_ref.actor.self_distillation"

DEFAULTS = {
    "full_logit_distillation": True,
    "alpha": 0.5,
    "success_reward_threshold": 1.0,
    "teacher_regularization": "ema",
    "teacher_update_rate": 0.05,
    "teacher_update_interval": "step",
    "teacher_placement": "auto",
    "distillation_topk": 100,
    "distillation_add_tail": True,
    "is_clip": 2.0,
    "max_reprompt_len": 10240,
    "reprompt_truncation": "right",
    "dont_reprompt_on_self_success": True,
    "remove_thinking_from_demonstration": True,
    "reprompt_template": (
        "{prompt}{attempt}{solution}{failed_attempts}{feedback}\n\nCorrectly solve the original question."
    ),
    "solution_template": "\nCorrect solution:\n\n{successful_previous_attempt}",
    "feedback_template": "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}",
    "include_environment_feedback": True,
    "environment_feedback_only_without_solution": True,
    # Ours.
    "credit": "logit",
    "head": "chunked",
    "support": "student",
    "denominator": "targets",
    "self_success_as_solution": False,
    "routing": "blend",
    "grpo_weight": 0.0,
    "question_weight": "equal",
    "teacher_entropy_beta": 0.0,
    "policy_clip": None,
    "advantage_clip": None,
    "num_demonstrations": 1,
    "num_failed_attempts": 0,
    "include_own_attempt": False,
    "attempt_template": "\nYour earlier attempt:\n\n{own_attempt}",
    "failed_attempt_template": "\nIncorrect solution:\n\n{failed_attempt}",
    "demonstration_choice": "first",
    "demonstration_seed": 0,
    "max_grader_error_rate": 0.01,
}


def test_defaults():
    """Of what every run reads; a class that is not chosen may bring further keys."""
    known = defaults()
    assert {name: known[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("alpha", "0.5"),
        ("alpha", None),
        ("alpha", float("nan")),
        ("success_reward_threshold", "high"),
        ("success_reward_threshold", True),
        ("success_reward_threshold", float("nan")),
        ("credit", "best"),
        ("head", "fused"),
        ("denominator", "half"),
        ("self_success_as_solution", "yes"),
        ("teacher_regularization", "none"),
        ("teacher_update_rate", -0.05),
        ("teacher_update_rate", 1.5),
        ("teacher_update_interval", "epoch"),
        ("teacher_placement", "cuda"),
        ("distillation_topk", 0),
        ("distillation_topk", -1),
        ("distillation_topk", 2.5),
        ("distillation_topk", True),
        ("is_clip", 0),
        ("is_clip", -2.0),
        ("is_clip", "2"),
        ("max_reprompt_len", 0),
        ("max_reprompt_len", None),
        ("reprompt_truncation", "middle"),
        ("demonstration_choice", "best"),
        ("demonstration_seed", None),
        ("demonstration_seed", 0.5),
        ("max_grader_error_rate", 2),
        ("full_logit_distillation", "false"),
        ("distillation_add_tail", None),
        ("dont_reprompt_on_self_success", 1),
        ("remove_thinking_from_demonstration", "no"),
        ("include_environment_feedback", "yes"),
        ("environment_feedback_only_without_solution", 0),
        ("reprompt_template", "{solution}{feedback}"),
        ("reprompt_template", "{prompt}{feedback}"),
        ("reprompt_template", "{prompt}{solution}"),
        ("solution_template", "Look:"),
        ("feedback_template", "{feedback}"),
        ("feedback_template", None),
        ("attempt_template", "Look:"),
        ("failed_attempt_template", "{own_attempt}"),
        ("num_demonstrations", 0),
        ("num_failed_attempts", -1),
        ("include_own_attempt", 1),
        ("teacher_entropy_beta", "1"),
    ],
)
def test_an_invalid_value_names_key_and_value(key, value):
    with pytest.raises(ValueError) as raised:
        SelfDistillationConfig(**{"demonstration_choice": "random", **{key: value}})
    assert str(raised.value).startswith(f"{BLOCK}.{key}={value!r}: expected ")


@pytest.mark.parametrize(
    ("values", "objective", "teacher", "demonstrations"),
    [
        ({}, Divergence, ExponentialMovingAverage, FirstSuccess),
        ({"alpha": 0}, Divergence, ExponentialMovingAverage, FirstSuccess),
        ({"alpha": 1, "distillation_topk": None, "is_clip": None}, Divergence, ExponentialMovingAverage, FirstSuccess),
        ({"full_logit_distillation": False, "alpha": 1.0}, SampledToken, ExponentialMovingAverage, FirstSuccess),
        ({"credit": "sampled-token", "alpha": 1.0}, SampledToken, ExponentialMovingAverage, FirstSuccess),
        (
            {"teacher_regularization": "trust-region", "teacher_update_rate": 0, "demonstration_choice": "random"},
            Divergence,
            TrustRegion,
            RandomSuccess,
        ),
        ({"teacher_regularization": "frozen"}, Divergence, Frozen, FirstSuccess),
        ({"teacher_regularization": "live"}, Divergence, Live, FirstSuccess),
        (
            {"reprompt_template": "{a} {prompt} {} {solution} { {feedback}"},
            Divergence,
            ExponentialMovingAverage,
            FirstSuccess,
        ),
    ],
)
def test_the_block_chooses_classes_which_take_their_keys(values, objective, teacher, demonstrations):
    config = SelfDistillationConfig(**values)
    assert type(config.objective) is objective
    assert config.teacher_class is teacher
    assert type(config.demonstrations) is demonstrations
    assert config.ignored == {}
    parts = (
        config.objective.config,
        config.teacher_config,
        config.grading,
        config.prompt,
        config.demonstrations.config,
    )
    parts += tuple(section.config for section in config.sections)
    taken = {name: value for part in parts for name, value in vars(part).items()}
    assert {name: taken.get(name, value) for name, value in values.items()} == values
    assert {name: taken[name] for name in taken if name not in values} == {
        name: DEFAULTS[name] for name in taken if name not in values
    }


@pytest.mark.parametrize(
    ("values", "ignored"),
    [
        ({"teacher_regularization": "frozen", "teacher_update_rate": 0.01}, {"teacher_update_rate": 0.01}),
        (
            {"teacher_regularization": "live", "teacher_update_interval": "optimizer"},
            {"teacher_update_interval": "optimizer"},
        ),
        ({"teacher_regularization": "live", "teacher_placement": "gpu"}, {"teacher_placement": "gpu"}),
        ({"full_logit_distillation": False, "alpha": 1.0, "distillation_topk": 20}, {"distillation_topk": 20}),
        ({"full_logit_distillation": False, "alpha": 1.0, "distillation_topk": 100}, {}),
        ({"demonstration_seed": 3}, {"demonstration_seed": 3}),
        ({"demonstration_seed": 3, "demonstration_choice": "random"}, {}),
    ],
)
def test_a_key_that_no_chosen_class_reads_is_known_as_ignored(values, ignored):
    assert SelfDistillationConfig(**values).ignored == ignored


def test_the_block_of_a_tree_is_what_hydra_instantiates():
    block = {"_target_": "verl.sdpo.config.SelfDistillationConfig", "alpha": 1.0}
    config = parse_block({"actor_rollout_ref": {"actor": {"self_distillation": block}}})
    assert config.objective.config.alpha == 1.0


def test_an_unknown_key_names_the_known_ones():
    with pytest.raises(ValueError, match=r"\.ema_update_rate=0\.05: there is no such key.*teacher_update_rate"):
        SelfDistillationConfig(ema_update_rate=0.05)


def test_one_renormalised_token_teaches_nothing():
    with pytest.raises(ValueError, match=r"distillation_topk=1.*distillation_add_tail=False.*always zero"):
        SelfDistillationConfig(distillation_topk=1, distillation_add_tail=False)


def test_two_classes_cannot_have_two_defaults_for_one_key(monkeypatch):
    @dataclass(frozen=True)
    class Config(Divergence.Config):
        alpha: float = 1.0

    monkeypatch.setitem(OBJECTIVES, "other", type("Other", (Divergence,), {"Config": Config}))
    with pytest.raises(ValueError, match=r"Config\.alpha=1\.0: another class has the default 0\.5"):
        defaults()


def test_a_success_cannot_be_shown_its_own_attempt_and_not():
    with pytest.raises(ValueError, match=r"self_success_as_solution=True.*dont_reprompt_on_self_success=True"):
        SelfDistillationConfig(self_success_as_solution=True)
    SelfDistillationConfig(self_success_as_solution=True, dont_reprompt_on_self_success=False)


def test_the_sampled_token_only_goes_with_the_reverse_kl():
    with pytest.raises(ValueError, match=r"\.alpha=0\.5.*sampled-token.*Set alpha=1\.0"):
        SelfDistillationConfig(full_logit_distillation=False)
