"""An agent loop whose sessions have two turns, each an output of its own: refused before anything is trained."""

import pytest

pytestmark = pytest.mark.e2e

LOOP = '''
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class AskTwice(SingleTurnAgentLoop):
    """Asks again after the answer. The second turn has the first one in its prompt."""

    async def run(self, sampling_params, **kwargs):
        first = await super().run(sampling_params, **kwargs)
        answer = self.tokenizer.decode(first.response_ids, skip_special_tokens=True)
        history = [{"role": "assistant", "content": answer}, {"role": "user", "content": "Sure?"}]
        second = await super().run(sampling_params, **{**kwargs, "raw_prompt": [*kwargs["raw_prompt"], *history]})
        return [first, second]
'''


def test_a_session_of_two_outputs_ends_the_run_with_a_sentence(train, tmp_path, monkeypatch):
    (tmp_path / "ask_twice.py").write_text(LOOP)
    (tmp_path / "loops.yaml").write_text("- name: ask_twice\n  _target_: ask_twice.AskTwice\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = train(
        tmp_path,
        "trainer.total_training_steps=1",
        "actor_rollout_ref.rollout.n=2",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={tmp_path / 'loops.yaml'}",
        "actor_rollout_ref.rollout.agent.default_agent_loop=ask_twice",
        prompts=2,
    )
    assert run.returncode != 0
    assert "the agent loop returned several outputs (row " in run.stdout
    assert "let your loop's `run` return the session as one AgentLoopOutput" in run.stdout
    # verl's logger opens its file for the first record.
    metrics = tmp_path / "metrics.jsonl"
    assert not metrics.exists() or not metrics.read_text()
    assert "training/global_step" not in run.stdout
