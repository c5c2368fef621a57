"""The guard on curves whose outcome is known: measured ones, and simulated ones with the noise of small batches."""

import json
import random

import pytest

from verl.sdpo.runs.guard_rules import ACCURACY, Guard, GuardConfig

LENGTH, ENTROPY = "response_length/mean", "self_distillation/student_entropy"


def watch(guard: Guard, first: int = 1, **curves):
    """Events of steps with these values, one list per metric."""
    names = {"accuracy": ACCURACY, "length": LENGTH, "entropy": ENTROPY}
    steps = [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]
    return [
        event
        for number, values in enumerate(steps, first)
        for event in guard.observe(number, {names.get(name, name): value for name, value in values.items()})
    ]


def guard(**config) -> Guard:
    return Guard(GuardConfig(**config))


# The quickstart with a live teacher and ten times its learning rate, seed 0, measured.
COLLAPSE = {
    "accuracy": [0.188, 0.375, 0.188, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "length": [34.5, 33.7, 30.0, 40.0, 39.9, 36.3, 32.8, 28.2, 31.3, 33.2, 26.9],
    "response_length/clip_ratio": [0.562, 0.562, 0.375, 1.0, 0.969, 0.875, 0.75, 0.531, 0.688, 0.719, 0.562],
}


# The same once more, on a busy machine: other answers, another end.
COLLAPSE_TO_NOTHING = {
    "accuracy": [0.188, 0.438, 0.062, 0.031, 0.0, 0.0, 0.0, 0.0],
    "length": [34.5, 32.8, 39.2, 17.1, 1.8, 1.6, 1.1, 1.0],
}


def test_answers_that_collapse_to_nothing_are_told_as_soon():
    """Accuracy is below half of what it was from step 3 on, length from step 4."""
    assert [(event.step, event.signal) for event in watch(guard(), **COLLAPSE_TO_NOTHING)] == [
        (8, LENGTH),
        (8, ACCURACY),
    ]


def test_the_known_collapse_is_told_within_five_steps_of_the_fall():
    """Accuracy is below half of what it was from step 4 on."""
    events = watch(guard(), **COLLAPSE)
    assert events and events[0].step <= 8
    assert events[0].signal == ACCURACY
    assert events[0].sentence == (
        "step 8: training accuracy is 0 over the last 5 steps, after 0.25 over the 3 steps before."
    )
    assert [event.signal for event in events].count(ACCURACY) == 1, "one event for as long as it lasts"


def test_validation_tells_it_sooner():
    watcher = guard()
    assert not watcher.observe(0, {"val-core/tool_json/acc/mean@1": 0.27})
    assert not watch(watcher, accuracy=[0.188, 0.375, 0.188, 0.0])
    (event,) = watcher.observe(5, {ACCURACY: 0.0, "val-core/tool_json/acc/mean@1": 0.0})
    assert event.sentence == "step 5: validation is 0.00, after 0.27 at its best."
    assert not watcher.observe(10, {ACCURACY: 0.0, "val-core/tool_json/acc/mean@1": 0.01})


# Measured, see docs/quickstart.md.
HEALTHY = {
    "validation of seed 0": [0.27, 0.78, 0.89, 0.88],
    "validation of seed 1": [0.27, 0.78, 0.91, 0.91],
    "validation of seed 2": [0.33, 0.81, 0.92, 0.86],
    "validation of GRPO": [0.27, 0.80, 0.84, 0.88],
    "validation with feedback": [0.36, 0.25, 0.78, 0.83],
    "validation with default templates": [0.36, 0.44, 0.75, 0.48],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_measured_validations_of_healthy_runs_are_no_alarm(name):
    watcher = guard()
    for i, value in enumerate(HEALTHY[name]):
        assert not watcher.observe(5 * i, {"val-core/tool_json/acc/mean@1": value})


def test_a_batch_of_hard_questions_is_no_alarm():
    """Seed 1 once: three steps down, and back again."""
    assert not watch(guard(), accuracy=[0.25, 0.5, 0.91, 0.47, 0.16, 0.6, 0.8, 0.9, 0.9])


def simulated(rng: random.Random, rate: float, questions: int, attempts: int = 8) -> float:
    """Training accuracy of a step: questions differ in how often they are solved."""
    rates = [rng.betavariate(2 * rate, 2 * (1 - rate)) for _ in range(questions)]
    return sum(rng.random() < each for each in rates for _ in range(attempts)) / questions / attempts


@pytest.mark.parametrize(("questions", "rate"), [(4, 0.25), (4, 0.5), (8, 0.25), (8, 0.5), (32, 0.1), (32, 0.5)])
def test_noise_is_no_alarm(questions, rate):
    """Runs of 60 steps that neither learn nor fail. Only the quickstart's batches of 4 questions raise one, 2 of 40."""
    alarms = 0
    for seed in range(40):
        rng = random.Random(seed)
        alarms += bool(watch(guard(), accuracy=[simulated(rng, rate, questions) for _ in range(60)]))
    assert alarms <= (2 if questions == 4 else 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_learns_gets_shorter_and_surer_without_alarm(seed):
    rng = random.Random(seed)
    rates = [min(0.9, 0.25 + 0.08 * step) for step in range(40)]
    watched = watch(
        guard(),
        accuracy=[simulated(rng, rate, 4) for rate in rates],
        length=[800 * (1 - rate) * rng.uniform(0.9, 1.1) for rate in rates],
        entropy=[0.6 * (1 - rate) ** 2 for rate in rates],
    )
    assert not watched


@pytest.mark.parametrize("seed", range(20))
def test_a_late_collapse_is_told_within_five_steps(seed):
    rng = random.Random(seed)
    rates = [min(0.9, 0.25 + 0.08 * step) for step in range(20)] + [0.02] * 5
    events = watch(guard(), accuracy=[simulated(rng, rate, 4) for rate in rates])
    assert events and 20 < events[0].step <= 25


def test_answers_that_shrink_count_with_a_fall_of_accuracy_only():
    length = [100.0, 98.0, 102.0, 99.0, 30.0, 28.0, 25.0, 24.0, 23.0]
    assert not watch(guard(), accuracy=[0.5, 0.52, 0.49, 0.5, 0.5, 0.48, 0.52, 0.5, 0.5], length=length)
    (event,) = watch(guard(), accuracy=[0.5, 0.52, 0.49, 0.5, 0.35, 0.33, 0.31, 0.3, 0.3], length=length)
    assert event.sentence == (
        "step 9: length of answers is 26 over the last 5 steps, after 99.8 over the 4 steps before, "
        "and training accuracy fell from 0.50 to 0.32."
    )


@pytest.mark.parametrize(
    ("metric", "before", "after"),
    [
        (ENTROPY, 0.3, 2.0),
        (ENTROPY, 0.3, 0.01),
        ("actor/entropy", 0.3, 2.0),
        (LENGTH, 100.0, 300.0),
        ("training/incorrect_format", 0.0, 0.5),
        ("self_distillation/teacher_student_distance", 0.001, 0.2),
        ("self_distillation/reprompt_sample_fraction", 0.9, 0.0),
    ],
)
def test_what_else_goes_wrong_is_told(metric, before, after):
    accuracy = [0.5, 0.52, 0.49, 0.5] + [0.3] * 5
    events = watch(guard(), accuracy=accuracy, **{metric: [before] * 4 + [after] * 5})
    assert [(event.step, event.signal) for event in events] == [(9, metric)]


def test_a_number_that_is_not_finite_is_told_at_once():
    (event,) = guard().observe(3, {ACCURACY: 0.5, "actor/grad_norm": float("nan")})
    assert (event.signal, event.sentence) == ("actor/grad_norm", "step 3: actor/grad_norm is nan.")


def test_a_run_that_never_solved_anything_has_nothing_to_lose():
    assert not watch(guard(), accuracy=[0.0] * 20, length=[100.0] * 5 + [10.0] * 15, entropy=[0.1] * 5 + [0.9] * 15)


def test_the_same_reason_is_told_again_after_a_recovery():
    fall = [0.02, 0.0, 0.03, 0.01, 0.02]
    high = [0.8, 0.82, 0.78, 0.81]
    events = watch(guard(), accuracy=high + fall + high * 4 + fall)
    assert [event.step for event in events] == [9, 30]


def test_patience_is_the_steps_in_a_row():
    curve = [0.8, 0.82, 0.78, 0.0, 0.0, 0.0]
    assert [event.step for event in watch(guard(guard_patience=2), accuracy=curve)] == [5]


def test_doubts_begin_with_the_first_bad_step_and_end_with_it():
    watcher = guard()
    watch(watcher, accuracy=[0.8, 0.82], length=[100.0, 101.0])
    assert not watcher.doubts
    watcher.observe(3, {ACCURACY: 0.1, LENGTH: 100.0})
    assert watcher.doubts
    watcher.observe(4, {ACCURACY: 0.8, LENGTH: 20.0})
    assert not watcher.doubts, "short, and as good as ever"
    watcher.observe(5, {ACCURACY: 0.2, LENGTH: 20.0})
    assert watcher.doubts


def test_a_resumed_guard_goes_on():
    config = GuardConfig()
    whole, first = Guard(config), Guard(config)
    cut = 5
    head = {name: values[:cut] for name, values in COLLAPSE.items()}
    tail = {name: values[cut:] for name, values in COLLAPSE.items()}
    events = watch(first, **head)
    resumed = Guard.resumed(config, json.loads(json.dumps(first.state)))
    assert events + watch(resumed, cut + 1, **tail) == watch(whole, **COLLAPSE)


@pytest.mark.parametrize(
    ("key", "value"),
    [("guard", "on"), ("guard_patience", 0), ("guard_patience", 1.5), ("guard_fall", 1.0), ("guard_fall", 0)],
)
def test_wrong_values_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"insight\.{key}={value!r}: expected"):
        GuardConfig.of({key: value, "max_samples": 64})


def test_a_bare_off_of_the_yaml_is_off():
    assert GuardConfig.of({"guard": False}).guard == "off"


@pytest.mark.parametrize("broken", ["accuracy", "length"])
def test_a_number_that_is_not_finite_is_no_past(broken):
    """One of them, and the collapse after it is still seen."""
    curves = {"accuracy": [0.8] * 5 + [0.0] * 6, "length": [30.0] * 5 + [1.0] * 6}
    curves[broken][2] = float("nan")
    assert {event.signal for event in watch(guard(), **curves)} == {ACCURACY, LENGTH}
