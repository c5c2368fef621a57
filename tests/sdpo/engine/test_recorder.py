"""What the workers record of the chosen rows, in verl's engines, against an unsharded reference (engines.py)."""

import torch

from verl.sdpo.engine.recorder import FOLDER, ROW, TokenRecorder


def test_chosen_rows_are_recorded_whatever_the_split(two_ranks, models, tmp_path):
    two_ranks.run(check_recorded, path=models["tied"], folder=str(tmp_path))
    said = {}
    for part in sorted(tmp_path.glob("*.pt")):
        said |= torch.load(part)
    # Row 1 has no target, row 6 was not chosen.
    assert sorted(said) == [0, 2, 3, 7]


def check_recorded(engines, path, folder):
    from verl.utils import tensordict_utils as tu

    samples = engines.make_samples("10110011")
    for settings in ({"distillation_topk": 5}, {"full_logit_distillation": False, "alpha": 1.0}):
        pair = engines.build_pair(path, strategy="fsdp2", settings=settings)
        share = engines.rank_share(samples)
        first = next(i for i, sample in enumerate(samples) if sample is share[0])
        numbers = torch.tensor([i if i != 6 else -1 for i in range(first, first + len(share))])
        student, teacher = (engines.unsharded(path, engines.full_weights(e)) for e in (pair.student, pair.reference))
        for split in ({"micro_batch_size_per_gpu": 1}, {"micro_batch_size_per_gpu": 4}):
            recorder = pair.student.recorder = TokenRecorder()
            engines.gradients_of(pair.student, share, more={ROW: numbers}, **split)
            for number, said in recorder.rows.items():
                compare(engines, samples[number], said, student, teacher)
            assert set(recorder.rows) == {i for i in numbers.tolist() if i >= 0 and samples[i].target}
    recorder.write(tu.get_tensordict({ROW: numbers}, non_tensor_dict={FOLDER: folder}))


def compare(engines, sample, said, student, teacher):
    """Signs and values from whole distributions: the teacher's log-ratio, the entropies, the three best tokens."""
    places = sample.mask.bool().nonzero().squeeze(-1)
    assert said["position"].tolist() == places.tolist()
    ids = sample.response[places].unsqueeze(-1)
    with torch.no_grad():
        ours, theirs = (
            engines.row_logits(model, prompt, sample.response).log_softmax(-1)[places]
            for model, prompt in ((student, sample.prompt), (teacher, sample.teacher_prompt))
        )
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(said["log_ratio"], (theirs - ours).gather(-1, ids).squeeze(-1), **close)
    for name, log_probs in (("student", ours), ("teacher", theirs)):
        torch.testing.assert_close(said[f"{name}_entropy"], -(log_probs.exp() * log_probs).sum(-1), **close)
        best = log_probs.topk(3)
        torch.testing.assert_close(said[f"{name}_best_log_probs"], best.values, **close)
        assert said[f"{name}_best"].tolist() == best.indices.tolist()
    assert (said["kl"] >= -1e-5).all() or said["kl"].allclose(-said["log_ratio"], atol=1e-5)
