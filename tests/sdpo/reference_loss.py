"""A slow second derivation of the SDPO loss, in probability space and one token at a time (float64).

It shares no line and no formula in log space with `verl.sdpo.loss`, so that both can only agree by being right.
"""

import torch


def kl(p, q):
    return sum(p_i * torch.log(p_i / q_i) for p_i, q_i in zip(p, q, strict=True))


def jensen_shannon(student, teacher, alpha):
    mixture = [(1 - alpha) * s + alpha * t for s, t in zip(student, teacher, strict=True)]
    return (1 - alpha) * kl(student, mixture) + alpha * kl(teacher, mixture)


def outcomes(student_V, teacher_V, config):
    """The probabilities that are compared: all, the student's K likeliest and the rest, or those K alone."""
    if config["distillation_topk"] is None:
        return list(student_V), list(teacher_V)
    likeliest = student_V.detach().argsort(descending=True).tolist()
    shown = likeliest[: config["distillation_topk"]]
    compared = []
    for distribution in (student_V, teacher_V):
        chosen = [distribution[v] for v in shown]
        if config.get("distillation_add_tail", True):
            compared.append([*chosen, sum(distribution[v] for v in likeliest[len(shown) :])])
        else:
            compared.append([p / sum(chosen) for p in chosen])
    return compared


def token_divergence(student_logits_V, teacher_logits_V, config):
    student, teacher = (z.exp() / z.exp().sum() for z in (student_logits_V, teacher_logits_V))
    student, teacher = outcomes(student, teacher, config)
    if config["alpha"] == 0:
        return kl(teacher, student)
    if config["alpha"] == 1:
        return kl(student, teacher)
    return jensen_shannon(student, teacher, config["alpha"])


def token_mean_loss(student_logits_BTV, teacher_logits_BTV, mask_BT, config):
    """Mean of the divergence over the tokens that count, from logits of any dtype."""
    student, teacher = student_logits_BTV.double(), teacher_logits_BTV.double()
    counted = mask_BT.nonzero().tolist()
    return sum(token_divergence(student[b, t], teacher[b, t], config) for b, t in counted) / len(counted)
