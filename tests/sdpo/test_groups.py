"""Batches of verl's asynchronous buffer: whole groups, with every sibling that a teacher's row may show."""

from types import SimpleNamespace

import pytest

from verl.trainer.ppo.v1 import replay_buffer

GROUPS = {"old": ("finished", 1), "half": ("running", 1), "broken": ("failure", 1), "new": ("finished", 2)}


@pytest.fixture
def buffer(monkeypatch):
    """Each question has two attempts there; `half` waits for a third."""
    prompts = {
        uid: {"is_prompt": True, "status": status, "global_steps": step} for uid, (status, step) in GROUPS.items()
    }
    tags = prompts | {f"{uid}_{i}_0": {} for uid in prompts for i in range(2)}
    cleared = []
    queue = SimpleNamespace(
        kv_list=lambda: {"train": {key: tag for key, tag in tags.items() if key not in cleared}},
        kv_clear=lambda partition_id, keys: cleared.extend(keys),
    )
    monkeypatch.setattr(replay_buffer, "tq", queue)
    asked = []
    buffer = replay_buffer.ReplayBufferAsync(
        trainer_mode="colocate_async",
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs={},
        refill_fn=asked.append,
    )
    buffer.asked = asked
    return buffer


@pytest.mark.parametrize(("questions", "uids"), [(1, ["old"]), (2, ["old", "new"])])
def test_only_finished_questions_are_handed_over_and_the_oldest_first(buffer, questions, uids):
    batch, _ = buffer.sample(global_steps=2, partition_id="train", batch_size=questions)
    assert batch.keys == [f"{uid}_{i}_0" for uid in uids for i in range(2)]
    # In place of the one whose attempts failed.
    assert buffer.asked == [1]
