"""The refilling sampler behind a queue of its own: which questions it asks for, takes and throws away."""

import pytest
from omegaconf import OmegaConf

from tests.sdpo.trainer.fakes import Characters, batch_of, entry
from verl.sdpo.config import defaults
from verl.sdpo.trainer import refill
from verl.sdpo.trainer.supervision import Watchdog, supervise

SUCCESS, FAILURE = {"score": 1.0}, {"score": 0.0}
RESPONSE = "yes"
THINKING = {"score": 1.0, "response": "<think>hm"}
TOLD = FAILURE | {"feedback": "too low"}
TAUGHT, ALL_FAIL, LONE_SUCCESS = [SUCCESS, FAILURE], [FAILURE, FAILURE], [SUCCESS]


class Queue:
    """TransferQueue as verl's buffer uses it. Questions finish as soon as they are asked, in the order of `groups`."""

    def __init__(self, groups):
        self.groups = list(groups)
        self.tags, self.rewards, self.asked = {}, {}, []

    def ask(self, number):
        self.asked.append(number)
        for _ in range(number):
            uid = f"question{len(self.groups)}"
            group = self.groups.pop(0)
            self.tags[uid] = {"is_prompt": True, "status": "finished" if group else "failure", "global_steps": 1}
            for i, reward in enumerate(group):
                self.tags[f"{uid}_{i}_0"] = {"response_len": len(RESPONSE)}
                self.rewards[f"{uid}_{i}_0"] = reward

    def kv_list(self):
        return {"train": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_clear(self, partition_id, keys):
        for key in keys:
            self.tags.pop(key, None)

    def kv_batch_get(self, keys, partition_id, select_fields):
        rewards = [{"response": RESPONSE} | self.rewards[key] for key in keys]
        return batch_of(
            [entry(key.split("_")[0], **reward) for key, reward in zip(keys, rewards, strict=True)], select_fields
        )


@pytest.fixture
def sample(monkeypatch):
    def sample(groups, batch_size=2, rounds=2, **block):
        """The groups of a step, and what was measured."""
        queue = Queue(groups)
        monkeypatch.setattr("verl.sdpo.trainer.samples.tq", queue)
        monkeypatch.setattr("verl.trainer.ppo.v1.replay_buffer.tq", queue)
        block = {"_target_": "verl.sdpo.config.SelfDistillationConfig", **defaults(), **block}
        buffer = refill.RefillBuffer(
            trainer_mode="sdpo",
            trainer_config={},
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({"rounds": rounds, "self_distillation": block}),
            poll_interval=0.01,
            refill_fn=queue.ask,
        )
        buffer.tokenizer = Characters()
        queue.ask(batch_size)
        supervise(buffer, Watchdog(dict))
        batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=batch_size)
        taken = {}
        for key in batch.keys:
            taken.setdefault(key.split("_")[0], []).append(queue.rewards[key])
        assert set(queue.tags) == set(batch.keys), "what was not taken is thrown away"
        return [*taken.values()], metrics, queue.asked[1:]

    return sample


def test_a_batch_that_teaches_is_taken_as_it_is(sample):
    taken, metrics, asked = sample([TAUGHT, [TOLD]])
    assert sorted(taken, key=len) == [[TOLD], TAUGHT]
    assert asked == []
    assert metrics == {
        "training/refill/rounds": 0,
        "training/refill/questions": 0,
        "training/refill/taught_fraction": 1.0,
        "training/refill/generated_tokens": 9,
    }


def test_groups_that_teach_nothing_are_replaced(sample):
    """Two questions without a teacher, then one of their two successors: a second round asks for one more."""
    taken, metrics, asked = sample([ALL_FAIL, LONE_SUCCESS, TAUGHT, ALL_FAIL, TAUGHT])
    assert taken == [TAUGHT, TAUGHT]
    assert asked == [2, 1]
    assert metrics["training/refill/rounds"] == 2
    assert metrics["training/refill/questions"] == 3
    assert metrics["training/refill/generated_tokens"] == 3 * 9


def test_when_the_rounds_are_over_the_batch_is_filled_with_the_others(sample):
    taken, metrics, asked = sample([ALL_FAIL, TAUGHT, ALL_FAIL, LONE_SUCCESS], rounds=2)
    assert TAUGHT in taken and len(taken) == 2
    assert asked == [1, 1]
    assert metrics["training/refill/taught_fraction"] == 0.5


@pytest.mark.parametrize(
    ("groups", "failed"), [([[], ALL_FAIL, TAUGHT, TAUGHT], 1), ([TAUGHT, [], TAUGHT], 1), ([[], []], 2)]
)
def test_a_failed_group_ends_the_step_even_where_others_are_taken(sample, groups, failed):
    with pytest.raises(RuntimeError, match=f"step 1: the responses to {failed} of 2 questions are not all there"):
        sample(groups, rounds=int(len(groups) > 2))


@pytest.mark.parametrize(
    ("group", "block", "teaches"),
    [
        ([TOLD], {}, True),
        ([TOLD], {"include_environment_feedback": False}, False),
        ([SUCCESS], {"dont_reprompt_on_self_success": False}, True),
        # Nothing is left of it to show.
        ([THINKING, FAILURE], {}, False),
        ([THINKING, FAILURE], {"remove_thinking_from_demonstration": False}, True),
        ([{"score": 0.5}, FAILURE], {"success_reward_threshold": 0.5}, True),
        # So that the share of grader errors is known.
        ([SUCCESS, FAILURE | {"grader_error": True}], {}, True),
        ([SUCCESS, SUCCESS], {"routing": "srpo", "denominator": "all"}, False),
        ([TOLD], {"question_weight": "uncertainty", "denominator": "all"}, False),
    ],
)
def test_the_block_decides_what_teaches(sample, group, block, teaches):
    _, _, asked = sample([group, TAUGHT], batch_size=1, rounds=1, **block)
    assert asked == ([] if teaches else [1])
