"""The worker that takes the place of verl's."""

from unittest import mock

import pytest
from omegaconf import OmegaConf

from tests.sdpo.trainer.fakes import make_trainer, trainer_config
from verl.sdpo.trainer.roles import use_self_distillation_worker
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer


def config(teacher: str = "ema", lora_rank: int = 0) -> dict:
    actor = {"policy_loss": {"loss_mode": "sdpo"}, "self_distillation": {"teacher_regularization": teacher}}
    return {"actor_rollout_ref": {"actor": actor, "model": {"lora_rank": lora_rank}}}


@pytest.mark.parametrize("verls_role", [Role.ActorRollout, Role.ActorRolloutRef])
@pytest.mark.parametrize(
    ("teacher", "lora_rank", "is_needed"),
    [("ema", 0, True), ("frozen", 0, True), ("live", 0, False), ("ema", 8, True), ("frozen", 8, False)],
)
def test_a_teacher_that_is_a_second_model_has_a_reference_model(verls_role, teacher, lora_rank, is_needed):
    """verl builds a reference model (`verls_role`) for a KL penalty only."""
    workers, pools = {verls_role: "verl's worker"}, {verls_role: "pool"}
    use_self_distillation_worker(OmegaConf.create(config(teacher, lora_rank)), workers, pools)
    role = Role.ActorRolloutRef if is_needed or verls_role is Role.ActorRolloutRef else Role.ActorRollout
    assert pools == {role: "pool"}
    (worker,) = workers.values()
    assert list(workers) == [role]
    assert worker.__ray_metadata__.class_name == "SelfDistillationWorker"


@pytest.mark.parametrize("loss_mode", ["sdpo", "vanilla"])
@pytest.mark.parametrize("verls", ["sync", "colocate_async", "separate_async"])
def test_a_trainer_has_that_worker_with_sdpo_only(tmp_path, monkeypatch, verls, loss_mode):
    def verls_roles(self):
        self.role_worker_mapping, self.mapping = {Role.ActorRollout: "verl's worker"}, {Role.ActorRollout: "pool"}

    name = {"sdpo": {"sync": "sdpo"}.get(verls, f"sdpo_{verls}"), "vanilla": f"{verls}_stoppable"}[loss_mode]
    bare = type("Bare", (get_trainer_cls(name),), {"extension_types": ()})
    trainer = make_trainer(trainer_config(tmp_path, name, loss_mode), 1, kind=bare)
    if loss_mode == "sdpo":
        trainer.config.merge_with(config())
    monkeypatch.setattr(PPOTrainer, "_init_resource_pool_mgr", verls_roles)
    trainer._init_resource_pool_mgr()
    role = Role.ActorRolloutRef if loss_mode == "sdpo" else Role.ActorRollout
    assert trainer.mapping == {role: "pool"}
    name = getattr(trainer.role_worker_mapping[role], "__ray_metadata__", mock.Mock(class_name=None)).class_name
    # verl's separated trainer has a worker of its own.
    assert (name == "SelfDistillationWorker") == (loss_mode == "sdpo")
