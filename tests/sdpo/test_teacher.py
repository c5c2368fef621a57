"""The self-teacher inside verl's FSDP engines. Tools: tests/sdpo/engines.py"""

import os
from unittest import mock

import pytest
import torch

from verl.sdpo.config import SelfDistillationConfig

RATE = 0.25
EMA = {"teacher_regularization": "ema", "teacher_update_rate": RATE}


@pytest.fixture(params=[True, False], ids=["stays", "offloaded"])
def stays(request) -> bool:
    """Whether the teacher is built without FSDP's CPU offload."""
    return request.param


@pytest.mark.parametrize("model", ["tied", "untied"])
def test_forward_uses_the_moving_average(ranks, strategy, models, model, stays):
    ranks.run(check_ema, path=models[model], strategy=strategy, stays=stays)


def test_forward_uses_the_moving_average_with_original_parameters(two_ranks, models, stays):
    two_ranks.run(check_ema, path=models["untied"], strategy="fsdp", use_orig_params=True, stays=stays)


def test_without_resharding_the_forward_is_stale(two_ranks, models, stays):
    """What `reshard` is for: FSDP1's root unit keeps the gathered old weights (and the check above can fail)."""
    two_ranks.run(check_stale, path=models["untied"], stays=stays)


def check_stale(engines, path, stays):
    with (
        mock.patch("verl.sdpo.engine.weights.reshard"),
        pytest.raises(AssertionError, match="Tensor-likes are not close"),
    ):
        check_ema(engines, path, "fsdp", stays=stays)


def test_offloaded_shards_that_part_from_the_gathered_ones_are_stale(two_ranks, models):
    """FSDP2 pins again what it takes for not pinned, and keeps two copies (torch's _fsdp_param.py:1044)."""
    two_ranks.run(check_parted, path=models["untied"])


def check_parted(engines, path):
    engines.pin_by_copying()
    with (
        mock.patch.object(torch.Tensor, "is_pinned", lambda tensor: False),
        pytest.raises(AssertionError, match="Tensor-likes are not close"),
    ):
        check_ema(engines, path, "fsdp2", stays=False)


def check_ema(engines, path, strategy, **options):
    """The logits of the teacher's engine equal those of an unsharded model with the average computed by hand.

    A forward precedes every update, so that a unit could serve what it gathered then. Nothing else touches the
    teacher's engine in between: gathering its weights would reshard it.
    """
    pair = engines.build_pair(path, strategy=strategy, settings=EMA, lr=1e-2, **options)
    samples = engines.make_samples()
    average = engines.full_weights(pair.reference)
    for _ in range(3):
        model = engines.unsharded(path, average)
        expected = engines.expected_teacher_rows(model, samples)
        torch.testing.assert_close(engines.teacher_rows(pair, samples), expected, rtol=1e-3, atol=1e-3)
        engines.train(pair.student, samples)
        pair.teacher.after_training_step()
        for name, weight in engines.full_weights(pair.student).items():
            average[name] = average[name] + RATE * (weight - average[name])
        moved = engines.expected_teacher_rows(engines.unsharded(path, average), samples)
        assert (moved - expected).abs().mean() > 0.02
    engines.assert_same(engines.full_weights(pair.reference), average, rtol=1e-5, atol=1e-6)


def test_a_slow_teacher_moves(two_ranks, strategy, models):
    two_ranks.run(check_slow_teacher, path=models["tied"], strategy=strategy)


def check_slow_teacher(engines, path, strategy):
    """Compute in bf16, lr 1e-6, rate 0.01: the float32 teacher follows, a bf16 teacher stands still.

    In bf16 only the smallest weights move by 1e-8, and those whose student crosses a rounding edge.
    """
    settings = {**EMA, "teacher_update_rate": 0.01}
    pair = engines.build_pair(path, strategy=strategy, settings=settings, compute="bf16", lr=1e-6, shift=0.0)
    samples = engines.make_samples()
    start = engines.full_weights(pair.reference)
    exact = {name: weight.double() for name, weight in start.items()}
    coarse = {name: weight.bfloat16() for name, weight in start.items()}
    for _ in range(10):
        engines.train(pair.student, samples)
        pair.teacher.after_training_step()
        for name, weight in engines.full_weights(pair.student).items():
            exact[name] += 0.01 * (weight.double() - exact[name])
            coarse[name].lerp_(weight.bfloat16(), 0.01)
    teacher = engines.full_weights(pair.reference)
    assert all(weight.dtype == torch.float32 for weight in teacher.values())
    went = torch.cat([(teacher[name] - start[name]).double().flatten() for name in start])
    should = torch.cat([(exact[name] - start[name]).flatten() for name in start])
    stood_still = torch.cat([(coarse[name] == start[name].bfloat16()).flatten() for name in start]).float().mean()
    assert (went - should).norm() < 0.05 * should.norm() and (went != 0).float().mean() > 0.99
    assert stood_still > 0.99


@pytest.mark.parametrize("kind", ["frozen", "live", "trust-region"])
def test_teacher_kinds(two_ranks, strategy, models, kind):
    two_ranks.run(check_kind, path=models["untied"], strategy=strategy, kind=kind)


def check_kind(engines, path, strategy, kind):
    settings = {"teacher_regularization": kind, "teacher_update_rate": RATE}
    pair = engines.build_pair(path, strategy=strategy, settings=settings, lr=1e-2)
    samples = engines.make_samples()
    assert (pair.reference is None) == (kind == "live")
    frozen = engines.unsharded(path, engines.full_weights(pair.reference)) if pair.reference else None
    for _ in range(2):
        engines.train(pair.student, samples)
        pair.teacher.after_training_step()
        student = engines.expected_teacher_rows(engines.unsharded(path, engines.full_weights(pair.student)), samples)
        expected = student
        if frozen is not None:
            expected = engines.expected_teacher_rows(frozen, samples)
            assert (student - expected).abs().mean() > 0.1
        if kind == "trust-region":
            expected = (expected * (1 - RATE) + student * RATE).log_softmax(-1)
        torch.testing.assert_close(engines.teacher_rows(pair, samples), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["ema", "live", "trust-region"])
def test_no_teacher_trains_while_it_scores(models, groups, kind):
    groups[1].run(check_mode, path=models["tied"], kind=kind)


def check_mode(engines, path, kind):
    """Dropout off, and verl's activation offload, which counts the layers of a training forward, not confused."""
    pair = engines.build_pair(path, strategy="fsdp2", settings={"teacher_regularization": kind})
    modes = []
    scoring = [engine for engine in (pair.student, pair.reference) if engine is not None]
    for engine in scoring:
        engine.module.register_forward_pre_hook(lambda module, _args: modes.append(module.training))
    with pair.student.train_mode():
        engines.teacher_rows(pair, engines.make_samples())
        assert pair.student.module.training
    assert modes == [False] * (2 if kind == "trust-region" else 1)


@pytest.mark.parametrize("interval", ["step", "optimizer"])
def test_update_interval(two_ranks, models, interval):
    two_ranks.run(check_interval, path=models["tied"], interval=interval)


def check_interval(engines, path, interval):
    """With "optimizer" each optimizer step moves the teacher; with "step" the worker does it, once a training step."""
    settings = {**EMA, "teacher_update_interval": interval}
    pair = engines.build_pair(path, strategy="fsdp2", settings=settings)
    average = engines.full_weights(pair.reference)
    for _ in range(2):
        engines.train(pair.student, engines.make_samples())
        if interval == "optimizer":
            for name, weight in engines.full_weights(pair.student).items():
                average[name] = average[name].lerp(weight, RATE)
    engines.assert_same(engines.full_weights(pair.reference), average, rtol=1e-6, atol=1e-7)


def test_refresh_copies_the_student_and_stands_still_in_between(two_ranks, strategy, models, tmp_path):
    two_ranks.run(check_refresh, path=models["tied"], strategy=strategy, folder=str(tmp_path))


def check_refresh(engines, path, strategy, folder):
    """Every third step, to the last bit; the count goes on after a resume in the middle."""
    settings = {"teacher_regularization": "refresh", "teacher_refresh_interval": 3}
    pair = engines.build_pair(path, strategy=strategy, settings=settings, lr=1e-2)
    samples = engines.make_samples()
    teacher = engines.full_weights(pair.reference)
    for step in range(1, 8):
        engines.train(pair.student, samples)
        distance = pair.teacher.after_training_step()
        if step % 3 == 0:
            teacher = engines.full_weights(pair.student)
        assert (distance == 0) == (step % 3 == 0)
        engines.assert_same(engines.full_weights(pair.reference), teacher, rtol=0.0, atol=0.0)
        if step == 4:
            pair.teacher.save(folder, global_step=4)
            resumed = engines.build_pair(path, strategy=strategy, settings=settings, lr=1e-2).teacher
            resumed.load(folder)
    assert [resumed.after_training_step() == 0 for _ in range(2)] == [False, True]


@pytest.mark.parametrize("interval", [0, -1, 2.5, None, True])
def test_a_refresh_interval_is_a_number_of_steps(interval):
    with pytest.raises(ValueError, match=r"teacher_refresh_interval=.*whole number of training steps >= 1"):
        SelfDistillationConfig(teacher_regularization="refresh", teacher_refresh_interval=interval)


def test_distance(ranks, strategy, models):
    ranks.run(check_distance, path=models["tied"], strategy=strategy)


def check_distance(engines, path, strategy):
    """Before any forward too: a step may have no target, and its end measures the distance all the same."""
    pair = engines.build_pair(path, strategy=strategy, settings=EMA)
    untouched = pair.teacher.weights.distance()
    student, teacher = engines.full_weights(pair.student), engines.full_weights(pair.reference)
    engines.teacher_rows(pair, engines.make_samples())
    # Tied embeddings are one parameter under two names.
    names = [name for name in student if name != "lm_head.weight"]
    difference = torch.cat([(teacher[name] - student[name]).flatten() for name in names]).norm()
    norm = torch.cat([student[name].flatten() for name in names]).norm()
    assert pair.teacher.weights.distance() == untouched == pytest.approx(float(difference / norm), rel=1e-5)


class Resting(torch.Tensor):
    """A tensor in ordinary memory: it may be copied, and nothing is computed with it."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert function in (torch.Tensor.to, torch.Tensor.copy_, torch.Tensor.shape.__get__), function
        with torch._C.DisableTorchFunctionSubclass():
            plain = [each.as_subclass(torch.Tensor) if isinstance(each, cls) else each for each in args]
            return function(*plain, **(kwargs or {}))


def test_nothing_is_computed_where_shards_rest(models, groups):
    groups[1].run(check_rest, path=models["tied"])


def check_rest(engines, path):
    """Averages and distances: with `param_offload` the student's shards are in ordinary memory as well."""
    pair = engines.build_pair(path, strategy="fsdp2", settings=EMA)
    weights = pair.teacher.weights
    shards = [[shard.as_subclass(Resting) for shard in both] for both in weights._pairs()]
    with pytest.raises(AssertionError, match="lerp"):
        torch.lerp(*shards[0], RATE)
    before = weights.distance()
    with mock.patch.object(weights, "_pairs", lambda: shards):
        assert weights.distance() == before
        assert weights.follow(RATE) == pytest.approx((1 - RATE) * before, rel=1e-4)
    assert weights.distance() == pytest.approx((1 - RATE) * before, rel=1e-4)


def test_update_before_the_first_forward(ranks, strategy, models, stays):
    ranks.run(check_early_update, path=models["tied"], strategy=strategy, stays=stays)


def check_early_update(engines, path, strategy, **options):
    """EMA of an unmoved student: the distance shrinks by the rate, and the logits are those of the average."""
    pair = engines.build_pair(path, strategy=strategy, settings=EMA, **options)
    pair.teacher.after_training_step()
    updated = pair.teacher.weights.distance()
    untouched = engines.build_pair(path, strategy=strategy, settings=EMA, **options)
    assert updated == pytest.approx((1 - RATE) * untouched.teacher.weights.distance(), rel=1e-4)
    student, teacher = (engines.full_weights(engine) for engine in (untouched.student, untouched.reference))
    average = {name: weight + RATE * (student[name] - weight) for name, weight in teacher.items()}
    samples = engines.make_samples()
    expected = engines.expected_teacher_rows(engines.unsharded(path, average), samples)
    torch.testing.assert_close(engines.teacher_rows(pair, samples), expected, rtol=1e-3, atol=1e-3)


def test_checkpoint_restores_the_teacher(ranks, strategy, models, tmp_path, stays):
    ranks.run(check_checkpoint, path=models["tied"], strategy=strategy, folder=str(tmp_path), stays=stays)


def check_checkpoint(engines, path, strategy, folder, **options):
    samples = engines.make_samples()
    options |= {"strategy": strategy, "settings": EMA, "lr": 1e-2}
    pair = engines.build_pair(path, **options)
    engines.train(pair.student, samples)
    pair.teacher.after_training_step()
    # The engine's own save_checkpoint loads an FSDP1 model to the GPU first.
    pair.student.checkpoint_manager.save_checkpoint(folder, global_step=1)
    pair.teacher.save(folder, global_step=1)
    expected = engines.teacher_rows(pair, samples)
    engines.train(pair.student, samples)
    pair.teacher.after_training_step()

    untrained = engines.build_pair(path, shift=0.0, **options)
    assert (engines.teacher_rows(untrained, samples) - expected).abs().mean() > 0.1
    # As verl resumes: no forward has run before.
    resumed = engines.build_pair(path, shift=0.0, **options)
    resumed.student.load_checkpoint(folder, del_local_after_load=False)
    resumed.teacher.load(folder)
    assert torch.equal(engines.teacher_rows(resumed, samples), expected)
    engines.train(resumed.student, samples)
    resumed.teacher.after_training_step()
    engines.assert_same(
        engines.full_weights(resumed.reference), engines.full_weights(pair.reference), rtol=0.0, atol=0.0
    )


@pytest.mark.parametrize("kind", ["frozen", "live", "trust-region"])
def test_other_teachers_leave_the_checkpoint_alone(models, groups, tmp_path, kind):
    groups[1].run(check_no_files, path=models["tied"], kind=kind, folder=str(tmp_path))


def check_no_files(engines, path, kind, folder):
    pair = engines.build_pair(path, strategy="fsdp2", settings={"teacher_regularization": kind})
    pair.teacher.save(folder, global_step=1)
    pair.teacher.load(folder)
    assert os.listdir(folder) == []


def test_resuming_without_a_teacher_says_so(models, groups, tmp_path):
    groups[1].run(check_missing, path=models["tied"], folder=str(tmp_path))


def check_missing(engines, path, folder):
    pair = engines.build_pair(path, strategy="fsdp2", settings=EMA)
    with pytest.raises(FileNotFoundError, match=r"holds no teacher.*teacher_regularization.*resume_mode=disable"):
        pair.teacher.load(folder)
