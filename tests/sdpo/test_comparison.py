"""Whole distributions, compared by chunks, against the same with all logits at once. Shapes as in comparison.py."""

import weakref
from functools import partial
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.sdpo.test_chunked_head import SIZES, D, V, Wrapped, embedding
from tests.sdpo.test_loss import random_logits
from verl.sdpo.comparison import ComparingHead
from verl.sdpo.head import ChunkedHead, EagerHead, Projection, Support
from verl.sdpo.objective import Comparison, Divergence, LogitAdvantages, Tokens
from verl.sdpo.teacher import MixedInLogSpace

FULL = Support(None)
OBJECTIVES = {
    "forward": Divergence(Divergence.Config(alpha=0.0, distillation_topk=None)),
    "jsd": Divergence(Divergence.Config(alpha=0.5, distillation_topk=None)),
    "reverse": Divergence(Divergence.Config(alpha=1.0, distillation_topk=None)),
    "advantages": LogitAdvantages(LogitAdvantages.Config(alpha=1.0, distillation_topk=None, advantage_clip=1.0)),
}
COMPARED = {
    "all": lambda size: torch.ones(size, dtype=torch.bool),
    "none": lambda size: torch.zeros(size, dtype=torch.bool),
    # Whole chunks of the first ones, and of the others some.
    "some": lambda size: (torch.arange(size) % 5 != 2) | (torch.arange(size) < 130),
}


def teacher_of(size: int, bias: bool) -> Projection:
    return Projection.taken(random_logits(size, D, seed=71), embedding(bias=bias))


def heads(size: int, is_compared: torch.Tensor, kind=EagerHead, **options):
    ids = torch.arange(size) % V
    of_teacher = {name: value for name, value in options.items() if name != "entropy_has_gradient"}
    return kind(ids, FULL, **options), kind(ids[is_compared], FULL, **of_teacher)


def expected_comparison(objective, hidden, linear, teacher, is_compared, **options) -> tuple:
    """With all logits at once: the student at all tokens, and the comparison."""
    head, teacher_head = heads(len(hidden), is_compared, **options)
    student, theirs = head(hidden, linear), teacher_head.read(teacher)
    ours = student.at(is_compared)
    return student, Comparison(ours, theirs, *objective.compare(ours, theirs, Tokens.of(is_compared.unsqueeze(0))))


def found_comparison(objective, hidden, linear, teacher, is_compared, **options) -> tuple:
    head, teacher_head = heads(len(hidden), is_compared, ChunkedHead, **options)
    compare = partial(objective.compare, tokens=Tokens.of(is_compared.unsqueeze(0)))
    comparison = ComparingHead(head, teacher_head, teacher, is_compared, compare)(hidden, linear)
    return comparison.student, comparison._replace(student=comparison.student.at(is_compared))


def gradients_of(student, comparison, hidden, linear, has_entropy) -> list[torch.Tensor]:
    """Of a fixed random function of what has gradients."""
    linear.zero_grad()
    total = (student.log_probs * random_logits(len(student.log_probs), seed=72)).sum()
    total = total + (comparison.losses * random_logits(len(comparison.losses), seed=73)).sum()
    if has_entropy:
        total = total + (student.entropy * random_logits(len(student.entropy), seed=74)).sum()
    return torch.autograd.grad(total, [hidden, *linear.parameters()])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"entropy_has_gradient": True}, {"num_top": 3}], ids=str)
@pytest.mark.parametrize("compared", COMPARED)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_everything_is_as_with_all_logits_at_once(name, size, compared, options):
    hidden = random_logits(size, D, seed=70).requires_grad_()
    linear, is_compared = embedding(bias=True), COMPARED[compared](size)
    teacher = teacher_of(int(is_compared.sum()), bias=True)
    arguments = (OBJECTIVES[name], hidden, linear, teacher, is_compared)
    whole, expected = expected_comparison(*arguments, **options)
    student, found = found_comparison(*arguments, **options)
    pairs = [*zip(student, whole, strict=True), *zip(found.student, expected.student, strict=True)]
    pairs += [*zip(found.teacher, expected.teacher, strict=True), (found.losses, expected.losses)]
    assert found.reports.keys() == expected.reports.keys()
    pairs += [(found.reports[key], expected.reports[key]) for key in expected.reports]
    all_log_probs = [whole.all_log_probs, expected.student.all_log_probs, expected.teacher.all_log_probs]
    for ours, theirs in pairs:
        if theirs is None or any(theirs is values for values in all_log_probs):
            assert ours is None
        else:
            assert ours.requires_grad == theirs.requires_grad
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    has_entropy = "entropy_has_gradient" in options
    for ours, theirs in zip(
        gradients_of(student, found, hidden, linear, has_entropy),
        gradients_of(whole, expected, hidden, linear, has_entropy),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_gradients_equal_finite_differences():
    linear, teacher, is_compared = embedding(bias=True), teacher_of(4, bias=False), torch.tensor([1, 0, 1, 1, 1, 0]) > 0
    head, teacher_head = heads(6, is_compared, ChunkedHead, temperature=0.6, entropy_has_gradient=True)
    compare = partial(OBJECTIVES["jsd"].compare, tokens=Tokens.of(is_compared.unsqueeze(0)))
    wrapped = Wrapped(ComparingHead(head, teacher_head, teacher, is_compared, compare), linear)

    def outputs(hidden, weight, bias):
        parameters = {"linear.weight": weight, "linear.bias": bias}
        found = torch.func.functional_call(wrapped, parameters, (hidden,))
        return found.losses, found.student.log_probs, found.student.entropy

    assert torch.autograd.gradcheck(outputs, (random_logits(6, D, seed=75).requires_grad_(), *linear.parameters()))


def test_a_mixture_is_the_normalised_product():
    """Eq. 10, of every token: p_ref^(1-rate) p_student^rate, divided by its sum."""
    reference, student = teacher_of(200, bias=False), Projection.taken(random_logits(200, D, seed=76), embedding())
    mixed = MixedInLogSpace(reference, student, 0.3)
    product = (0.7 * reference(slice(None)).log_softmax(-1) + 0.3 * student(slice(None)).log_softmax(-1)).exp()
    expected = (product / product.sum(-1, keepdim=True)).log()
    for kind in (EagerHead, ChunkedHead):
        found = kind(torch.zeros(200, dtype=torch.long), FULL).read(mixed).all_log_probs
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_projection_survives_its_model():
    """FSDP frees the weight that a head was called with."""
    linear, hidden = embedding(bias=True), random_logits(3, D, seed=77)
    expected = linear(hidden)
    taken = Projection.taken(hidden, linear)
    for parameter in linear.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(taken(slice(1, 3)), expected[1:], rtol=0, atol=1e-12)


def test_memory_does_not_grow_with_the_tokens():
    """Of four more chunks no logits stay: what is alive at once grows by less than a tenth of one chunk's."""
    few, many = peak_of(2), peak_of(6)
    assert many - few < 128 * 4001 * 8 / 10 < few


def peak_of(chunks: int) -> int:
    """The most bytes that are alive at once in forward and backward passes, beyond what was there before."""
    size, vocabulary = 128 * chunks, 4001
    hidden, linear = random_logits(size, D, seed=78).requires_grad_(), embedding(vocabulary=vocabulary)
    teacher = Projection.taken(random_logits(size, D, seed=79), linear)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        student, found = found_comparison(OBJECTIVES["jsd"], hidden, linear, teacher, torch.ones(size) > 0)
        gradients_of(student, found, hidden, linear, has_entropy=False)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def test_the_teacher_is_freed_after_the_backward_pass():
    """As what is saved for it: verl keeps a loss until the next micro-batch."""
    hidden, linear = random_logits(200, D, seed=80).requires_grad_(), embedding()
    teacher = teacher_of(200, bias=False)
    weight = weakref.ref(teacher.weight_VD)
    student, found = found_comparison(OBJECTIVES["jsd"], hidden, linear, teacher, torch.ones(200) > 0)
    del teacher
    assert weight() is not None
    loss = found.losses.sum() + student.log_probs.sum()
    loss.backward()
    assert weight() is None
