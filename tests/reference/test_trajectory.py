"""The engine follows the reference trainer, update by update, on rollouts of a real run."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.e2e.tiny import build_model
from tests.reference import stream
from tests.reference.trainer import Attempt, Settings, Trainer
from tests.sdpo.distributed import RankGroup

# With this epsilon Adam is not invariant to the scale of a gradient, so that a wrong denominator moves the weights; and
# a gradient that is zero but for rounding moves none.
SETTINGS = Settings(temperature=0.7, adam_eps=1e-3, mini_batches=2)
CASES = {
    "jsd-top100-ema": SETTINGS,
    "reverse-kl-top20-32-mini-batches": replace(SETTINGS, alpha=1.0, topk=20, mini_batches=32),
    "forward-kl": replace(SETTINGS, alpha=0.0),
    "full-vocabulary": replace(SETTINGS, topk=None),
    "trust-region": replace(SETTINGS, teacher="trust-region", teacher_rate=0.3),
    "hybrid": replace(SETTINGS, grpo_weight=0.9),
}
GRPO = replace(SETTINGS, grpo_weight=1.0)
# float32: the two differ in the order of sums.
CLOSE = 1e-5
NUM_UPDATES = 20


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    group = RankGroup(1, tmp_path_factory.mktemp("rank"))
    yield group
    group.close()


@pytest.fixture(scope="module")
def steps() -> list[list[Attempt]]:
    return stream.read()[0]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> str:
    """A random model whose distributions are far from uniform."""
    # verl loads a tokenizer, which nothing here reads.
    folder = build_model(tmp_path_factory.mktemp("model"))
    config = LlamaConfig.from_pretrained(folder, vocab_size=stream.read()[1], initializer_range=0.05)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def load(path: str) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")


def needed(steps: list[list[Attempt]], settings: Settings) -> list[list[Attempt]]:
    """The first steps that make `NUM_UPDATES`, two at least, as a teacher that moved teaches from the second one on.

    Several steps of the stream are one where updates are more than attempts.
    """
    joined = max(settings.mini_batches // len(steps[0]), 1)
    starts = range(0, len(steps), joined)
    steps = [[attempt for step in steps[start : start + joined] for attempt in step] for start in starts]
    return steps[: max(-(-NUM_UPDATES // settings.mini_batches), 2)]


def train_engine(engines, path: str, steps: Sequence[Sequence[Attempt]], settings: Settings, by_verl: bool = False):
    """The number of updates, and the weights of student and teacher after them."""
    block = {
        "alpha": settings.alpha,
        "distillation_topk": settings.topk,
        "teacher_regularization": settings.teacher,
        "teacher_update_rate": settings.teacher_rate,
        "grpo_weight": settings.grpo_weight,
        "is_clip": settings.is_clip,
        "denominator": "all",
    }
    optimizer = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "clip_grad": settings.max_grad_norm,
        "override_optimizer_config": {"eps": settings.adam_eps},
    }
    actor = {"loss_agg_mode": "seq-mean-token-mean", "policy_loss": {}}
    pair = engines.build_pair(path, strategy="fsdp2", settings=block, actor=actor, shift=0.0, optimizer=optimizer)
    num_updates = 0
    for attempts in steps:
        samples = [to_sample(engines, attempt) for attempt in attempts]
        old_log_probs = engines.infer(pair.student, samples)["log_probs"].split([len(a.response) for a in attempts])
        samples = [replace(s, old_log_probs=row) for s, row in zip(samples, old_log_probs, strict=True)]
        size = len(samples) // settings.mini_batches
        for start in range(0, len(samples), size):
            engines.train(
                pair.student,
                samples[start : start + size],
                global_batch_size=size,
                micro_batch_size_per_gpu=4,
                by_verl=by_verl,
            )
            num_updates += 1
        pair.teacher.after_training_step()
    return num_updates, [engines.full_weights(engine) for engine in (pair.student, pair.reference)]


def to_sample(engines, attempt: Attempt):
    ones = torch.ones(len(attempt.response))
    has_context = attempt.teacher_prompt is not None
    return engines.Sample(
        prompt=attempt.prompt,
        teacher_prompt=attempt.teacher_prompt if has_context else attempt.prompt,
        response=attempt.response,
        mask=ones.long(),
        target=has_context,
        old_log_probs=ones,
        ref_log_prob=ones,
        rollout_is_weights=ones,
        advantages=attempt.advantage * ones,
        graded=True,
    )


def train_reference(path: str, steps, settings: Settings, kind: type[Trainer] = Trainer):
    trainer = kind(load(path), settings)
    for attempts in steps:
        trainer.step(attempts)
    return [trainer.student.state_dict(), trainer.teacher.state_dict()]


def distance(got: Sequence[dict[str, torch.Tensor]], expected: Sequence[dict[str, torch.Tensor]]) -> float:
    """The largest relative difference of a weight matrix of student or teacher."""
    assert [model.keys() for model in got] == [model.keys() for model in expected]
    return max(
        float((weights[name] - reference[name]).norm() / reference[name].norm())
        for weights, reference in zip(got, expected, strict=True)
        for name in reference
    )


@pytest.mark.parametrize("name", CASES)
def test_the_engine_follows_the_reference(one_rank, steps, model_path, name):
    settings = CASES[name]
    steps = needed(steps, settings)
    ((num_updates, got),) = one_rank.run(train_engine, path=model_path, steps=steps, settings=settings)
    assert num_updates >= NUM_UPDATES
    assert distance(got, train_reference(model_path, steps, settings)) < CLOSE


@pytest.mark.parametrize("by_verl", [False, True], ids=["grpo-of-sdpo", "grpo-of-verl"])
def test_grpo_follows_the_reference(one_rank, steps, model_path, by_verl):
    steps = needed(steps, GRPO)
    ((_, got),) = one_rank.run(train_engine, path=model_path, steps=steps, settings=GRPO, by_verl=by_verl)
    assert distance(got, train_reference(model_path, steps, GRPO)) < CLOSE


class WrongDenominator(Trainer):
    def loss(self, attempt, old_log_probs_T):
        return 1.01 * super().loss(attempt, old_log_probs_T)


@pytest.mark.parametrize("name", CASES)
def test_one_percent_is_seen(steps, model_path, name):
    """A weight, a rate or a denominator that is wrong by 1 % moves the reference farther than it may be away."""
    settings = CASES[name]
    steps = needed(steps, settings)
    right = train_reference(model_path, steps, settings)
    wrong = {"lr": settings.lr, "teacher_rate": settings.teacher_rate}
    if settings.grpo_weight:
        wrong["grpo_weight"] = settings.grpo_weight
    for key, value in wrong.items():
        assert distance(train_reference(model_path, steps, replace(settings, **{key: 1.01 * value})), right) > CLOSE, (
            key
        )
    assert distance(train_reference(model_path, steps, settings, WrongDenominator), right) > CLOSE
