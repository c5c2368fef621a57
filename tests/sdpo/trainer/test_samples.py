"""Samples of a batch in TransferQueue."""

import pytest

from tests.sdpo.test_teacher_rows import decode
from tests.sdpo.trainer.fakes import Characters, Queue, entry
from verl.sdpo.context import Rollout
from verl.sdpo.trainer.samples import read_samples


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr("verl.sdpo.trainer.samples.tq", queue)
    return queue


def test_samples_are_the_batch_in_plain_python(queue):
    queue.samples = {
        "a_b_2_0": {**entry("a_b", "12", 1.0, feedback="well done"), "extra_info": {"tool_selection": ["alarm"]}},
        "a_b_0_0": entry("a_b", "3", 0.5, feedback="the grader broke", grader_error=True),
        # As verl fills a batch up: uid and tokens of its own, the rest from a real sample.
        "pad_1_0": {**entry("a_b", "4", 1.0), "uid": "pad"},
    }
    samples = read_samples(queue.batch(), Characters())
    messages = [{"role": "user", "content": "a_b"}]
    assert [sample.rollout for sample in samples] == [
        Rollout("a_b", 2, messages, "12", 1.0, {"feedback": "well done"}, {"tool_selection": ["alarm"]}),
        Rollout("a_b", 0, messages, "3", 0.5, {"feedback": "the grader broke", "grader_error": True}),
        Rollout("pad", 1, messages, "4", 1.0, is_padding=True),
    ]
    assert [sample.rollout.graded for sample in samples] == [True, False, False]
    assert [decode(sample.prompt_ids.tolist()) for sample in samples] == ["<a_b>"] * 3
    assert [decode(sample.response_ids.tolist()) for sample in samples] == ["12", "3", "4"]


def test_a_batch_with_an_image_is_refused(queue):
    queue.samples = {"q_0_0": entry("q", "x"), "q_1_0": {**entry("q", "y"), "multi_modal_inputs": {"pixels": [0.5]}}}
    with pytest.raises(ValueError, match="the batch has images, video or audio: SDPO supports text only"):
        read_samples(queue.batch(), Characters())


def test_several_outputs_of_one_session_are_refused(queue):
    """verl writes a row for every output of an agent loop, all with the session's question."""
    queue.samples = {key: entry("a_b", "12") for key in ("a_b_0_0", "a_b_1_0", "a_b_1_1")}
    message = (
        r"question a_b, session 1: .* several outputs \(row a_b_1_1\), but SDPO expects one .* one AgentLoopOutput"
    )
    with pytest.raises(ValueError, match=message):
        read_samples(queue.batch(), Characters())
