"""The smoke tests of an hour on one GPU. The bodies of the first half are those of tests/sdpo, which gloo ranks run."""

import pytest

from tests.gpu import checks
from tests.sdpo import test_teacher
from tests.sdpo.engine import test_engine, test_lora

OFFLOAD = {"param_offload": True, "optimizer_offload": True}
SMOKE = {
    "the teacher moves, offloaded": (test_teacher.check_ema, {"stays": False}),
    "the teacher moves, on the GPU": (test_teacher.check_ema, {"stays": True}),
    "no teacher is stale after early updates": (test_teacher.check_early_update, {}),
    "a frozen teacher": (test_teacher.check_kind, {"kind": "frozen"}),
    "the live teacher": (test_teacher.check_kind, {"kind": "live"}),
    "the trust region": (test_teacher.check_kind, {"kind": "trust-region"}),
    "distance of the teacher": (test_teacher.check_distance, {}),
    "static and dynamic batches, padded": (test_engine.check_gradient, {"options": {}}),
    "offloaded weights and optimizer": (test_engine.check_gradient_over_steps, {"options": OFFLOAD}),
    "packed rows": (test_engine.check_packed, {}),
    "old log-probabilities": (test_engine.check_inference, {"layout": "padded"}),
    "LoRA": (test_lora.check_average, {}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("what", SMOKE)
def test_smoke(rank_of, tiny_model, what, strategy):
    check, options = SMOKE[what]
    rank_of("cuda").run(check, path=tiny_model, strategy=strategy, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("stays", [True, False], ids=["on-the-gpu", "offloaded"])
def test_save_and_resume(rank_of, tiny_model, tmp_path, strategy, stays):
    options = {"strategy": strategy, "folder": str(tmp_path), "stays": stays}
    rank_of("cuda").run(test_teacher.check_checkpoint, path=tiny_model, **options)


def on_a_gpu(*values):
    return pytest.param("cuda", *values, marks=pytest.mark.gpu)


@pytest.mark.parametrize(
    ("device", "tokens", "vocabulary", "width"),
    [("cpu", 96, 300, 32), on_a_gpu(96, 300, 32), on_a_gpu(4096, 151_936, 2560)],
)
def test_heads(rank_of, record_property, device, tokens, vocabulary, width):
    (measured,) = rank_of(device).run(checks.check_heads, tokens=tokens, vocabulary=vocabulary, width=width)
    for name, value in measured.items():
        record_property(name, value)


@pytest.mark.parametrize(
    ("device", "size", "strategy"),
    [
        ("cpu", "tiny", "fsdp2"),
        *(on_a_gpu(size, strategy) for size in checks.SIZES for strategy in ("fsdp", "fsdp2")),
    ],
)
def test_step(rank_of, tiny_model, tmp_path, record_property, device, size, strategy):
    """Time with and without a teacher, and measured memory beside the doctor's estimate."""
    checks.build_random(str(tmp_path), size, tiny_model)
    shape = {"rows": 2, "length": 16} if size == "tiny" else {"rows": 4, "length": 1024}
    options = {"path": str(tmp_path), "size": size, "strategy": strategy}
    (measured,) = rank_of(device).run(checks.check_step, **options, **shape)
    for name, value in measured.items():
        record_property(name, value)
