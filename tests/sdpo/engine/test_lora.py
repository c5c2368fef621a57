"""Self-teachers of a student with verl's LoRA. Tools: tests/sdpo/engines.py"""

import pytest
import torch

RANK = 3
RATE = 0.05
STEPS = 50
EMA = {"teacher_regularization": "ema", "teacher_update_rate": RATE}
SPLITS = ({"micro_batch_size_per_gpu": 1}, {"use_dynamic_bsz": True, "max_token_len_per_gpu": 80})


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "offloaded"])
def test_the_moving_average_is_that_of_the_merged_weights(ranks, strategy, models, stays):
    ranks.run(check_average, path=models["untied"], strategy=strategy, stays=stays)


def test_the_moving_average_with_original_parameters_and_tied_embeddings(two_ranks, models):
    two_ranks.run(check_average, path=models["tied"], strategy="fsdp", use_orig_params=True)


@torch.no_grad()
def move_adapter(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad:
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            local.add_(0.01 * torch.randn_like(local))


def check_average(engines, path, strategy, **options):
    """Against a dense float32 average over 50 steps, some of them of the optimizer; one of A and of B apart fails."""
    torch.manual_seed(torch.distributed.get_rank())
    pair = engines.build_pair(path, strategy=strategy, settings=EMA, shift=0.0, lr=1e-2, lora_rank=RANK, **options)
    samples = engines.make_samples("1011")
    factors = engines.full_weights(pair.student)
    initial = dense = engines.merged(factors)
    for step in range(STEPS):
        if step % 10:
            move_adapter(pair.student.module)
        else:
            engines.train(pair.student, samples)
        distance = pair.teacher.after_training_step()
        student = engines.full_weights(pair.student)
        now = engines.merged(student)
        factors = {name: weight.lerp(student[name], RATE) for name, weight in factors.items()}
        dense = {name: weight.lerp(now[name], RATE) for name, weight in dense.items()}
    found = engines.teacher_rows(pair, samples)

    def error(weights) -> float:
        return difference(found, engines.expected_teacher_rows(engines.unsharded(path, weights), samples))

    assert error(dense) < 1e-5
    assert min(error(engines.merged(factors)), error(now), error(initial)) > 1e-3
    assert distance == pytest.approx(relative_distance(dense, now), rel=1e-4)


def relative_distance(teacher: dict, student: dict) -> float:
    """||teacher - student|| / ||student|| over all weights; tied embeddings are one under two names."""
    is_tied = torch.equal(student["lm_head.weight"], student["model.embed_tokens.weight"])
    names = [name for name in student if not (is_tied and name == "lm_head.weight")]
    gap = torch.cat([(teacher[name] - student[name]).flatten() for name in names]).norm()
    return float(gap / torch.cat([student[name].flatten() for name in names]).norm())


@pytest.mark.parametrize("kind", ["frozen", "live", "trust-region"])
def test_teachers_without_a_second_model(ranks, strategy, models, kind):
    ranks.run(check_kind, path=models["tied"], strategy=strategy, kind=kind)


def check_kind(engines, path, strategy, kind):
    settings = {"teacher_regularization": kind, "teacher_update_rate": 0.25}
    pair = engines.build_pair(path, strategy=strategy, settings=settings, lr=1e-2, lora_rank=RANK)
    samples = engines.make_samples()
    assert pair.reference is None
    trains = [parameter.requires_grad for parameter in pair.student.module.parameters()]
    initial = engines.merged(engines.full_weights(pair.student))
    base = engines.expected_teacher_rows(engines.unsharded(path, initial), samples)
    for _ in range(2):
        engines.train(pair.student, samples)
        distance = pair.teacher.after_training_step()
        weights = engines.full_weights(pair.student)
        student = engines.expected_teacher_rows(engines.unsharded(path, weights), samples)
        assert difference(student, base) > 1e-2
        expected = {"frozen": base, "live": student}.get(kind, torch.lerp(base, student, 0.25).log_softmax(-1))
        assert difference(engines.teacher_rows(pair, samples), expected) < 1e-5
        assert [parameter.requires_grad for parameter in pair.student.module.parameters()] == trains
    moved = relative_distance(initial, engines.merged(weights))
    assert distance == (0.0 if kind == "live" else pytest.approx(moved, rel=1e-4))


def test_verls_kl_penalty_is_to_the_base(two_ranks, strategy, models):
    two_ranks.run(check_kl_reference, path=models["untied"], strategy=strategy)


def check_kl_reference(engines, path, strategy):
    """verl asks the actor's own pass for the reference's log-probabilities, with the adapter off."""
    pair = engines.build_pair(path, strategy=strategy, settings=EMA, shift=0.0, lr=1e-2, lora_rank=RANK)
    samples = engines.make_samples()
    share = engines.rank_share(samples)
    engines.train(pair.student, samples)
    base = engines.unsharded(path, engines.merged(engines.full_weights(pair.student), share=0.0))
    every = engines.expected_rows(base, share, "prompt")
    expected = every.gather(-1, torch.cat([s.response for s in share]).unsqueeze(-1)).squeeze(-1)
    assert difference(engines.infer(pair.student, share)["log_probs"], expected) > 1e-3
    with pair.student.disable_adapter():
        assert difference(engines.infer(pair.student, share)["log_probs"], expected) < 1e-5


@pytest.mark.parametrize("kind", ["frozen", "live", "ema", "trust-region"])
def test_the_gradient_is_that_of_an_unsharded_model(ranks, strategy, models, kind):
    ranks.run(check_gradient, path=models["untied"], strategy=strategy, kind=kind)


def check_gradient(engines, path, strategy, kind):
    """Before the first step, when B is zero, and after one."""
    settings = {"teacher_regularization": kind, "teacher_update_rate": 0.25}
    pair = engines.build_pair(path, strategy=strategy, settings=settings, lr=1e-2, lora_rank=RANK)
    samples = engines.make_samples()
    for _ in range(2):
        expected, loss = engines.reference_gradients(pair, path, samples)
        assert expected and all("lora_" in name for name in expected)
        assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
        for split in SPLITS:
            gradients, output = engines.gradients_of(pair.student, engines.rank_share(samples), **split)
            engines.assert_same(gradients, expected)
            assert engines.global_loss(output) == pytest.approx(loss, rel=1e-4)
        engines.train(pair.student, samples)
        pair.teacher.after_training_step()


def test_a_refreshed_teacher_is_the_merged_student(two_ranks, strategy, models):
    two_ranks.run(check_refresh, path=models["tied"], strategy=strategy)


def check_refresh(engines, path, strategy):
    settings = {"teacher_regularization": "refresh", "teacher_refresh_interval": 2}
    pair = engines.build_pair(path, strategy=strategy, settings=settings, shift=0.0, lr=1e-2, lora_rank=RANK)
    samples = engines.make_samples()
    distances = []
    for _ in range(2):
        engines.train(pair.student, samples)
        distances.append(pair.teacher.after_training_step())
    assert distances[0] > distances[1] == 0
    expected = engines.merged(engines.full_weights(pair.student))
    engines.assert_same(engines.merged(engines.full_weights(pair.reference)), expected, rtol=1e-6, atol=1e-7)


def test_checkpoint_restores_student_and_teacher(ranks, strategy, models, tmp_path):
    ranks.run(check_checkpoint, path=models["tied"], strategy=strategy, folder=str(tmp_path))


def check_checkpoint(engines, path, strategy, folder):
    """To the last bit, and so is the next step. The models that resume begin with other random A."""
    samples = engines.make_samples()
    options = {"strategy": strategy, "settings": EMA, "shift": 0.0, "lr": 1e-2, "lora_rank": RANK}
    pair = engines.build_pair(path, **options)
    for _ in range(2):
        engines.train(pair.student, samples)
        pair.teacher.after_training_step()
    # The engine's own save_checkpoint loads an FSDP1 model to the GPU first.
    pair.student.checkpoint_manager.save_checkpoint(folder, global_step=2)
    pair.teacher.save(folder, global_step=2)
    expected = engines.teacher_rows(pair, samples)
    engines.train(pair.student, samples)
    distance = pair.teacher.after_training_step()

    resumed = engines.build_pair(path, **options)
    assert difference(engines.teacher_rows(resumed, samples), expected) > 1e-3
    resumed = engines.build_pair(path, **options)
    resumed.student.load_checkpoint(folder, del_local_after_load=False)
    resumed.teacher.load(folder)
    assert torch.equal(engines.teacher_rows(resumed, samples), expected)
    engines.train(resumed.student, samples)
    assert resumed.teacher.after_training_step() == distance
    for engine, other in ((pair.student, resumed.student), (pair.reference, resumed.reference)):
        engines.assert_same(engines.full_weights(other), engines.full_weights(engine), rtol=0.0, atol=0.0)
