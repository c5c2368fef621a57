"""The training step inside verl's FSDP engines, against an unsharded reference. Tools: tests/sdpo/engines.py"""

import math
from dataclasses import replace

import pytest
import torch

SPLITS = {
    "one-row": {"micro_batch_size_per_gpu": 1},
    "two-rows": {"micro_batch_size_per_gpu": 2},
    "whole": {"micro_batch_size_per_gpu": 4},
    "dynamic": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 80},
}


def check_gradient(engines, path, strategy, options, targets="10110011"):
    pair = engines.build_pair(path, strategy=strategy, **options)
    samples = engines.make_samples(targets)
    expected, loss = engines.reference_gradients(pair, path, samples)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for settings in SPLITS.values():
        gradients, output = engines.gradients_of(pair.student, engines.rank_share(samples), **settings)
        engines.assert_same(gradients, expected)
        assert engines.global_loss(output) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("model", ["tied", "untied"])
def test_gradient_does_not_depend_on_ranks_and_micro_batches(ranks, strategy, models, model):
    ranks.run(check_gradient, path=models[model], strategy=strategy, options={})


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"teacher_regularization": "frozen"}},
        {"settings": {"teacher_regularization": "live"}},
        {"settings": {"teacher_regularization": "trust-region", "teacher_update_rate": 0.3}},
        {"settings": {"teacher_regularization": "trust-region", "distillation_topk": None}},
        {"settings": {"teacher_regularization": "live"}, "use_no_sync_for_gradient_accumulation": False},
        {"settings": {"teacher_regularization": "live"}, "use_orig_params": True},
        {"settings": {"teacher_regularization": "live", "head": "eager"}},
    ],
    ids=["frozen", "live", "trust-region", "trust-region-full", "live-sync", "live-orig-params", "live-eager"],
)
def test_teacher_forward_of_the_student_leaves_its_gradient_intact(two_ranks, strategy, models, options):
    two_ranks.run(check_gradient_over_steps, path=models["untied"], strategy=strategy, options=options)


def check_gradient_over_steps(engines, path, strategy, options):
    """Twice, with an optimizer step between: nothing of the extra forward may linger in FSDP's state."""
    pair = engines.build_pair(path, strategy=strategy, lr=1e-2, **options)
    samples = engines.make_samples()
    for _ in range(2):
        expected, _ = engines.reference_gradients(pair, path, samples)
        for split in ("one-row", "dynamic"):
            gradients, _ = engines.gradients_of(pair.student, engines.rank_share(samples), **SPLITS[split])
            engines.assert_same(gradients, expected)
        before = engines.full_weights(pair.student)
        engines.train(pair.student, samples)
        after = engines.full_weights(pair.student)
        assert any((after[name] - before[name]).abs().max() > 1e-3 for name in after)


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"distillation_topk": None, "alpha": 0.0}},
        {"settings": {"distillation_add_tail": False, "alpha": 1.0, "is_clip": None}},
        {"settings": {"full_logit_distillation": False, "alpha": 1.0}},
        {"settings": {"credit": "logit-advantage", "alpha": 1.0, "advantage_clip": 0.5}},
        {"settings": {"credit": "token", "alpha": 1.0, "distillation_add_tail": False}},
        {"settings": {"credit": "sequence", "alpha": 1.0}},
        {"actor": {"loss_agg_mode": "seq-mean-token-mean"}},
        {"actor": {"loss_agg_mode": "seq-mean-token-mean"}, "settings": {"denominator": "all"}},
        {"actor": {"loss_agg_mode": "seq-mean-token-sum"}},
        {"actor": {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": 11}},
    ],
    ids=[
        "full",
        "top-k",
        "sampled",
        "logit-advantage",
        "token",
        "sequence",
        "seq-mean-token-mean",
        "seq-mean-token-mean-of-all",
        "seq-mean-token-sum",
        "seq-mean-token-sum-norm",
    ],
)
def test_gradient_of_every_mode(two_ranks, models, options):
    two_ranks.run(check_gradient, path=models["tied"], strategy="fsdp2", options=options)


@pytest.mark.parametrize(
    "settings",
    [{"grpo_weight": 0.9}, {"grpo_weight": 0.9, "distillation_topk": None}, {"routing": "srpo"}, {"grpo_weight": 1.0}],
    ids=["hybrid", "hybrid-full", "srpo", "grpo"],
)
@pytest.mark.parametrize("targets", ["10110011", "00000000"])
@pytest.mark.parametrize("loss_agg_mode", ["token-mean", "seq-mean-token-mean"])
def test_samples_learn_from_teacher_and_reward(two_ranks, models, settings, targets, loss_agg_mode):
    options = {"settings": settings | {"denominator": "all"}, "actor": {"loss_agg_mode": loss_agg_mode}}
    two_ranks.run(check_gradient, path=models["tied"], strategy="fsdp2", options=options, targets=targets)


def test_questions_weigh_what_they_are_given(two_ranks, models):
    two_ranks.run(check_weights_of_questions, path=models["tied"])


def check_weights_of_questions(engines, path):
    """A row's weight scales its tokens, as their importance weights do."""
    weights = [0.4, 0.0, 1.6, 0.7, 0.0, 0.0, 1.3, 1.0]
    pair, samples = engines.build_pair(path, strategy="fsdp2"), engines.make_samples("10110011")
    scaled = [
        replace(s, rollout_is_weights=(w or 1.0) * s.rollout_is_weights) for s, w in zip(samples, weights, strict=True)
    ]
    expected, loss = engines.reference_gradients(pair, path, scaled)
    mine = {"teacher_weight": torch.tensor(engines.rank_share(weights))}
    for settings in SPLITS.values():
        gradients, output = engines.gradients_of(pair.student, engines.rank_share(samples), mine, **settings)
        engines.assert_same(gradients, expected)
        assert engines.global_loss(output) == pytest.approx(loss, rel=1e-4)


def test_tokens_count_more_where_the_teacher_is_sure(two_ranks, models):
    two_ranks.run(check_sure_teacher, path=models["tied"])


def check_sure_teacher(engines, path):
    """exp(-2 H), with mean one over each response's own tokens, scales them as their importance weights do."""
    plain, pair = (engines.build_pair(path, strategy="fsdp2", settings={"teacher_entropy_beta": b}) for b in (0.0, 2.0))
    samples = engines.make_samples()
    log_probs = engines.teacher_rows(pair, samples)
    sureness = (2.0 * (log_probs.exp() * log_probs).sum(-1)).exp().split([len(s.response) for s in samples])
    scaled = [
        replace(s, rollout_is_weights=s.rollout_is_weights * row / row[s.mask.bool()].mean())
        for s, row in zip(samples, sureness, strict=True)
    ]
    expected, loss = engines.reference_gradients(plain, path, scaled)
    unscaled, _ = engines.reference_gradients(plain, path, samples)
    assert max((expected[name] - unscaled[name]).abs().max() for name in expected) > 1e-4
    for settings in SPLITS.values():
        gradients, output = engines.gradients_of(pair.student, engines.rank_share(samples), **settings)
        engines.assert_same(gradients, expected)
        assert engines.global_loss(output) == pytest.approx(loss, rel=1e-4)


def test_logits_are_clipped_against_the_policy_before_the_update(ranks, models):
    ranks.run(check_policy_clip, path=models["tied"])


def check_policy_clip(engines, path):
    """The inference pass keeps the old policy's top-k; after a step the loss is Eq. 13 at those tokens."""
    settings = {"credit": "logit-advantage", "alpha": 1.0, "policy_clip": [0.2, 0.28], "is_clip": None}
    pair = engines.build_pair(path, strategy="fsdp2", settings=settings)
    samples = engines.make_samples()
    share = engines.rank_share(samples)
    old = engines.unsharded(path, engines.full_weights(pair.student))
    kept = engines.infer_raw(pair.student, share)
    assert {"old_topk_indices", "old_topk_log_probs"} < set(kept)
    with torch.no_grad():
        old_rows = [engines.row_logits(old, s.prompt, s.response).log_softmax(-1).topk(20) for s in samples]
    mine = [row for row, s in zip(old_rows, samples, strict=True) if any(s is other for other in share)]
    torch.testing.assert_close(
        kept["old_topk_log_probs"].values(), torch.cat([row.values for row in mine]).flatten(), **engines.CLOSE
    )
    engines.shift_weights(pair.student, 0.02)
    student, teacher = (engines.unsharded(path, engines.full_weights(e)) for e in (pair.student, pair.reference))
    losses, is_clipped = [], []
    for s, row in zip(samples, old_rows, strict=True):
        if s.target:
            weights = s.mask * s.rollout_is_weights
            ours, theirs = (
                engines.row_logits(model, prompt, s.response).log_softmax(-1).gather(-1, row.indices)
                for model, prompt in ((student, s.prompt), (teacher, s.teacher_prompt))
            )
            ours, theirs, before = (
                torch.cat([p, (1 - p.exp().sum(-1, keepdim=True)).log()], -1) for p in (ours, theirs, row.values)
            )
            ratio, advantages = (ours - before).exp(), (theirs - ours).detach()
            chosen = torch.min(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
            is_clipped.append((chosen < ratio * advantages).any())
            losses.append(-(before.exp() * chosen).sum(-1) * weights)
    assert any(is_clipped)
    loss = torch.cat(losses).sum() / sum(s.mask.sum() for s in samples if s.target)
    loss.backward()
    expected = {name: parameter.grad for name, parameter in student.named_parameters()}
    for split in ("one-row", "dynamic"):
        gradients, output = engines.gradients_of(pair.student, share, more=kept, **SPLITS[split])
        engines.assert_same(gradients, expected)
        assert engines.global_loss(output) == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["ema", "trust-region"])
@pytest.mark.parametrize("targets", ["11110000", "00000000", "00000001"])
def test_ranks_without_targets(two_ranks, strategy, models, kind, targets):
    options = {"settings": {"teacher_regularization": kind}}
    two_ranks.run(check_few_targets, path=models["tied"], strategy=strategy, options=options, targets=targets)


def check_few_targets(engines, path, strategy, options, targets):
    pair = engines.build_pair(path, strategy=strategy, **options)
    samples = engines.make_samples(targets)
    expected, loss = engines.reference_gradients(pair, path, samples)
    assert ("1" in targets) == any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for split in ("one-row", "dynamic"):
        gradients, output = engines.gradients_of(pair.student, engines.rank_share(samples), **SPLITS[split])
        engines.assert_same(gradients, expected)
        assert engines.global_loss(output) == pytest.approx(loss, rel=1e-4)
    metrics = engines.train(pair.student, samples)
    assert (metrics["grad_norm"] == 0) == ("1" not in targets)
    # Rows that may share a prompt are sorted by it.
    share = sorted(engines.rank_share(samples), key=lambda s: s.prompt.tolist())
    empty = [not (share[i].target or share[i + 1].target) for i in (0, 2)]
    assert metrics["self_distillation/empty_target_batch"].aggregate() == sum(empty) / 2


@pytest.mark.parametrize("targets", ["10000110", "11110000", "00000000"])
def test_rows_without_target_are_left_out_and_nothing_else_changes(two_ranks, strategy, models, targets):
    two_ranks.run(check_left_out, path=models["tied"], strategy=strategy, targets=targets)


def check_left_out(engines, path, strategy, targets):
    """Beside the same step with every row computed; one rank has more targets than the other."""
    pair = engines.build_pair(path, strategy=strategy, settings={"denominator": "all"})
    share = engines.rank_share(engines.make_samples(targets))
    computed = {True: 0, False: 0}
    for settings in SPLITS.values():
        found = {}
        for every in (True, False):
            with engines.every_row_read(every), engines.shapes_seen(pair.student) as seen:
                found[every] = engines.gradients_of(pair.student, share, **settings)
            computed[every] += sum(rows * width for rows, width in seen["embedded"])
        engines.assert_same(found[False][0], found[True][0], rtol=1e-4, atol=1e-6)
        metrics, expected = (
            {name: engines.global_sum([metric.aggregate()]) for name, metric in output["metrics"].items()}
            for _, output in (found[False], found[True])
        )
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert engines.global_loss(found[False][1]) == pytest.approx(engines.global_loss(found[True][1]), rel=1e-4)
    assert engines.global_sum([computed[False]]) < engines.global_sum([computed[True]])


@pytest.mark.parametrize(
    "actor",
    [
        {"entropy_coeff": 0.1},
        {"use_kl_loss": True, "kl_loss_coef": 0.2, "kl_loss_type": "low_var_kl"},
        {"entropy_coeff": 0.1, "use_kl_loss": True, "kl_loss_coef": 0.2, "kl_loss_type": "kl"},
    ],
    ids=["entropy", "kl", "both"],
)
@pytest.mark.parametrize("targets", ["10110011", "00000000"])
@pytest.mark.parametrize("loss_agg_mode", ["token-mean", "seq-mean-token-mean"])
def test_regularizers_count_every_response_token(two_ranks, models, actor, targets, loss_agg_mode):
    options = {
        "actor": actor | {"loss_agg_mode": loss_agg_mode},
        "settings": {"teacher_regularization": "frozen", "denominator": "all"},
    }
    two_ranks.run(check_gradient, path=models["tied"], strategy="fsdp2", options=options, targets=targets)


def test_packed_rows_give_the_same_gradient(ranks, strategy, models):
    ranks.run(check_packed, path=models["tied"], strategy=strategy)


def check_packed(engines, path, strategy):
    pair = engines.build_pair(path, strategy=strategy, remove_padding=True, actor={"shared_prefix": "off"})
    samples = engines.make_samples()
    expected, _ = engines.reference_gradients(pair, path, samples)
    for settings in SPLITS.values():
        gradients, _ = engines.gradients_of(
            pair.student, engines.rank_share(samples), use_remove_padding=True, **settings
        )
        engines.assert_same(gradients, expected)


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_inference_agrees_with_verls_own(ranks, strategy, models, layout):
    ranks.run(check_inference, path=models["tied"], strategy=strategy, layout=layout)


def check_inference(engines, path, strategy, layout):
    remove_padding = layout == "packed"
    engine = engines.build_engine(path, strategy=strategy, remove_padding=remove_padding)
    engine.shares_prefixes = layout == "shared"
    samples = engines.rank_share(siblings(engines.make_samples()))
    expected = engines.infer(engine, samples, by_verl=True)
    assert expected["log_probs"].std() > 0.01 and expected["entropy"].min() > 0.01
    for settings in SPLITS.values():
        found = engines.infer(engine, samples, use_remove_padding=remove_padding, **settings)
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, **engines.CLOSE)


def test_only_needed_rows_and_positions_are_computed(two_ranks, strategy, models):
    two_ranks.run(check_shapes, path=models["untied"], strategy=strategy)


def check_shapes(engines, path, strategy):
    """One micro-batch: both models embed rows with a target only, both heads see distilled positions only."""
    pair = engines.build_pair(path, strategy=strategy, actor={"shared_prefix": "off"})
    samples = engines.rank_share(engines.make_samples("01100111"))
    with engines.shapes_seen(pair.student) as student, engines.shapes_seen(pair.reference) as teacher:
        engines.gradients_of(pair.student, samples, micro_batch_size_per_gpu=4)
    targets = [s for s in samples if s.target]
    tokens = sum(int(s.mask.sum()) for s in targets)
    width = max(len(s.prompt) + len(s.response) for s in targets)
    teacher_width = max(len(s.teacher_prompt) + len(s.response) for s in targets)
    assert student == {"embedded": [(len(targets), width)], "scored": [tokens]}
    assert teacher == {"embedded": [(len(targets), teacher_width)], "scored": [tokens]}


@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_budget_counts_what_student_and_teacher_compute(two_ranks, models, layout):
    two_ranks.run(check_budget, path=models["tied"], layout=layout)


def check_budget(engines, path, layout):
    """No micro-batch has more than 80 tokens of both, a shared prompt counted once; each of the batch's is in one."""
    is_packed = layout == "packed"
    sharing = {"shared_prefix": "off" if is_packed else "on"}
    pair = engines.build_pair(path, strategy="fsdp2", remove_padding=is_packed, actor=sharing)
    samples = engines.rank_share(siblings(engines.make_samples("11111111")))
    data = engines.to_batch(samples, use_dynamic_bsz=True, max_token_len_per_gpu=80, use_remove_padding=is_packed)
    keys, rows = set(data.keys()), data["input_ids"]
    with (
        engines.shapes_seen(pair.student) as student,
        engines.shapes_seen(pair.reference) as teacher,
        pair.student.train_mode(),
    ):
        pair.student.train_batch(data, None)
    both = [
        math.prod(ours) + math.prod(theirs)
        for ours, theirs in zip(student["embedded"], teacher["embedded"], strict=True)
    ]
    whole = sum(len(s.prompt) + len(s.teacher_prompt) + 2 * len(s.response) for s in samples)
    assert max(both) <= 80 < sum(both)
    if is_packed:
        # But for the single tokens of a rank that has less to do.
        assert sum(tokens for tokens in both if tokens > 2) == whole
    else:
        assert sum(both) < whole
    assert set(data.keys()) == keys and data["input_ids"] is rows, "the caller's batch is not the engine's to change"


def test_metrics_belong_to_the_global_mini_batch(ranks, models):
    ranks.run(check_metrics, path=models["tied"])


def check_metrics(engines, path):
    pair = engines.build_pair(path, strategy="fsdp2")
    samples = engines.make_samples()
    student, teacher = (
        engines.unsharded(path, engines.full_weights(engine)) for engine in (pair.student, pair.reference)
    )
    targets = [s for s in samples if s.target]
    mask = torch.cat([s.mask for s in targets]).bool()
    p = engines.expected_rows(student, targets, "prompt")[mask]
    q = engines.expected_rows(teacher, targets, "teacher_prompt")[mask]
    kept = p.topk(20).indices
    expected = {
        "student_entropy": -(p.exp() * p).sum(-1).mean(),
        "teacher_entropy": -(q.exp() * q).sum(-1).mean(),
        "tail_mass": 1 - p.exp().gather(-1, kept).sum(-1).mean(),
    }
    for settings in SPLITS.values():
        _, output = engines.gradients_of(pair.student, engines.rank_share(samples), **settings)
        for name, value in expected.items():
            got = engines.global_sum(output["metrics"][f"self_distillation/{name}"].values)
            assert got == pytest.approx(value.item(), rel=1e-4), name


def test_one_optimizer_step_moves_the_student_towards_the_teacher(ranks, strategy, models):
    ranks.run(check_sign, path=models["tied"], strategy=strategy)


def check_sign(engines, path, strategy):
    pair = engines.build_pair(path, strategy=strategy, settings={"teacher_regularization": "frozen"}, lr=3e-4)
    samples = engines.make_samples()
    losses = []
    for _ in range(4):
        _, loss = engines.reference_gradients(pair, path, samples)
        losses.append(loss)
        engines.train(pair.student, samples)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.97 * losses[0], losses


def siblings(samples):
    """The same samples in two groups, one row after another, each with one prompt; in each one row has a teacher
    prompt of its own. The last row has no sibling."""
    first, second = samples[:2]
    shared = [replace(s, prompt=(first, second)[i % 2].prompt) for i, s in enumerate(samples[:-1])]
    shared = [
        s if i < 2 else replace(s, teacher_prompt=(first, second)[i % 2].teacher_prompt) for i, s in enumerate(shared)
    ]
    own = samples[2].teacher_prompt
    return [replace(shared[0], teacher_prompt=own), *shared[1:], samples[-1]]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", ["ema", "live", "trust-region"])
def test_shared_prompts_give_the_same_gradient(two_ranks, strategy, models, kind, checkpointing):
    two_ranks.run(check_shared, path=models["tied"], strategy=strategy, kind=kind, checkpointing=checkpointing)


def check_shared(engines, path, strategy, kind, checkpointing):
    """Also of samples that one rank alone has a target for; and every prompt of a micro-batch is embedded once."""
    pair = engines.build_pair(
        path, strategy=strategy, settings={"teacher_regularization": kind}, gradient_checkpointing=checkpointing
    )
    assert pair.student.shares_prefixes
    for targets in ("10111011", "00000110"):
        samples = siblings(engines.make_samples(targets))
        expected, loss = engines.reference_gradients(pair, path, samples)
        mine = engines.rank_share(samples)
        for settings in SPLITS.values():
            gradients, output = engines.gradients_of(pair.student, mine, **settings)
            engines.assert_same(gradients, expected)
            assert engines.global_loss(output) == pytest.approx(loss, rel=1e-4)
        pair.student.shares_prefixes = False
        alone, _ = engines.gradients_of(pair.student, mine)
        engines.assert_same(gradients, alone, rtol=1e-4, atol=1e-6)
        pair.student.shares_prefixes = True
        with engines.shapes_seen(pair.student) as student:
            engines.gradients_of(pair.student, mine, micro_batch_size_per_gpu=4)
        read = [s for s in mine if s.target]
        lines = {tuple(s.prompt.tolist()): len(s.prompt) for s in read}
        for s in read:
            lines[tuple(s.prompt.tolist())] += len(s.response)
        # A rank with nothing to read runs a single token.
        assert student["embedded"][0] == ((len(lines), max(lines.values())) if read else (1, 1))
        assert len(lines) < len(read) or targets == "00000110"
