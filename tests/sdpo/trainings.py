"""A training that is ready to start, as the checks before Ray read it."""

from collections.abc import Mapping

from omegaconf import OmegaConf

from tests.sdpo.test_config import DEFAULTS
from verl.sdpo.config import is_sdpo
from verl.sdpo.preflight.validation import SDPO_CHECKS, validate_refill, validate_trainer_mode

FSDP = {
    "ulysses_sequence_parallel_size": 1,
    "fsdp_size": -1,
    "use_orig_params": False,
    "wrap_policy": {"min_num_params": 0},
}
VALID = {
    "trainer": {"use_v1": True, "v1": {"trainer_mode": "sdpo"}, "nnodes": 1, "n_gpus_per_node": 4},
    "algorithm": {"use_kl_in_reward": False},
    "distillation": {"enabled": False},
    "data": {
        "train_files": [],
        "val_files": [],
        "custom_cls": {"path": None},
        "train_batch_size": 32,
        "filter_overlong_prompts": True,
        "max_prompt_length": 2048,
        "max_response_length": 1024,
        "image_key": "images",
        "video_key": "videos",
        "audio_key": "audios",
    },
    "actor_rollout_ref": {
        "model": {
            "use_fused_kernels": False,
            "lora_rank": 0,
            "lora_adapter_path": None,
            "lora": {"rank": 0},
            "target_modules": "all-linear",
        },
        "actor": {
            "strategy": "fsdp2",
            "policy_loss": {"loss_mode": "sdpo"},
            "self_distillation": DEFAULTS,
            "use_kl_loss": False,
            "use_dynamic_bsz": True,
            "ppo_max_token_len_per_gpu": 2048 + 10240 + 2 * 1024,
            "ppo_mini_batch_size": 32,
            "loss_agg_mode": "token-mean",
            "loss_scale_factor": None,
            "ulysses_sequence_parallel_size": 1,
            "fsdp_config": FSDP,
        },
        "ref": {
            "strategy": "fsdp2",
            "ulysses_sequence_parallel_size": 1,
            "fsdp_config": {**FSDP, "model_dtype": "fp32"},
        },
        "rollout": {"n": 8},
    },
}
REFILL = {
    "data.refill_until_target": 2,
    "data.gen_batch_size": 1,
    "trainer.v1.sampler": {"custom_sampler": {"name": "RefillBuffer"}, "sync_refill_failed_groups": False},
    "reward": {"reward_model": {"enable": False, "enable_resource_pool": False}},
}
STATIC = {
    "actor_rollout_ref.actor.use_dynamic_bsz": False,
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 1,
}
LORA = {"actor_rollout_ref.model.lora_rank": 8}


def training_config(overrides):
    """VALID with dotted keys replaced, as Hydra hands it over."""
    config = OmegaConf.create(VALID)
    for key, value in overrides.items():
        OmegaConf.update(config, key, value, merge=False)
    OmegaConf.set_struct(config, True)
    return config


def check_training(config: Mapping) -> None:
    """Run the checks of a training with SDPO that look at neither files nor the machine."""
    for check in (validate_refill, validate_trainer_mode, *(SDPO_CHECKS if is_sdpo(config) else ())):
        check(config)
