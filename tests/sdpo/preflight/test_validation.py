"""Checks of whole training configurations, before Ray starts."""

import copy
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import verl
from tests.sdpo.test_config import BLOCK
from tests.sdpo.trainings import FSDP, LORA, REFILL, STATIC, VALID, check_training, training_config
from verl.sdpo.config import is_sdpo
from verl.sdpo.preflight.data_files import check_files, local_files
from verl.sdpo.preflight.validation import (
    validate_guard,
    validate_hours,
    validate_separation,
    validate_teacher_eval,
)


@pytest.mark.parametrize("teacher", ["ema", "trust-region", "frozen", "live"])
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_a_valid_training_passes(teacher, strategy):
    config = training_config(
        {
            f"{BLOCK}.teacher_regularization": teacher,
            "actor_rollout_ref.actor.strategy": strategy,
            "actor_rollout_ref.ref.strategy": strategy,
        }
    )
    check_training(config)
    check_training(OmegaConf.to_container(config))
    assert is_sdpo(config)


@pytest.mark.parametrize("teacher", ["ema", "refresh", "trust-region", "frozen", "live"])
def test_lora_passes_with_every_teacher_and_a_kl_to_the_base(teacher):
    more = {f"{BLOCK}.teacher_regularization": teacher, "actor_rollout_ref.actor.use_kl_loss": True}
    check_training(training_config({**LORA, **more}))


IMPOSSIBLE = [
    *(
        (
            {f"actor_rollout_ref.ref.fsdp_config.{key}": value},
            [f"ref.fsdp_config.{key}={value}", f"actor.fsdp_config.{key}={FSDP.get(key, 'null')}", "same value"],
        )
        for key, value in (
            ("fsdp_size", 2),
            ("use_orig_params", True),
            ("wrap_policy", {"min_num_params": 1}),
            ("mixed_precision", {"param_dtype": "fp16"}),
        )
    ),
    ({"trainer.use_v1": False}, ["loss_mode=sdpo", "trainer.use_v1=False", "--config-name sdpo"]),
    ({"trainer.v1.trainer_mode": "sync"}, ["loss_mode=sdpo", "trainer_mode=sync", "trainer_mode=sdpo"]),
    (
        {"actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla"},
        ["trainer_mode=sdpo", "loss_mode=vanilla", "trainer_mode=sync"],
    ),
    ({f"{BLOCK}.alpha": 2}, [f"{BLOCK}.alpha=2", "[0, 1]"]),
    ({f"{BLOCK}.ema_update_rate": 0.05}, [f"{BLOCK}.ema_update_rate=0.05", "no such key", "teacher_update_rate"]),
    (
        {"actor_rollout_ref.actor.strategy": "megatron"},
        ["actor_rollout_ref.actor.strategy=megatron", "strategy=fsdp2"],
    ),
    ({"actor_rollout_ref.ref.strategy": "fsdp"}, ["ref.strategy=fsdp with", "actor.strategy=fsdp2", "same value"]),
    (
        {"actor_rollout_ref.model.use_fused_kernels": True},
        ["use_fused_kernels=True", "Set use_fused_kernels=False"],
    ),
    ({"actor_rollout_ref.model.lora_adapter_path": "a/b"}, ["lora_adapter_path=a/b", "Set lora_adapter_path=null"]),
    ({"actor_rollout_ref.model.lora.rank": 4}, ["lora.rank=4", "FSDP", "lora.rank=0", "lora_rank=4"]),
    (
        {**LORA, "actor_rollout_ref.model.target_modules": ["q_proj", "lm_head"]},
        ["target_modules=['q_proj', 'lm_head']", "Leave out lm_head"],
    ),
    (
        {**LORA, "actor_rollout_ref.model.target_parameters": ["mlp.experts.down_proj"]},
        ["target_parameters=['mlp.experts.down_proj']", "set target_parameters=null"],
    ),
    (
        {
            **LORA,
            "actor_rollout_ref.actor.strategy": "fsdp",
            "actor_rollout_ref.ref.strategy": "fsdp",
            "actor_rollout_ref.actor.fsdp_config.wrap_policy.min_num_params": 7,
            "actor_rollout_ref.ref.fsdp_config.wrap_policy.min_num_params": 7,
        },
        ["wrap_policy.min_num_params=7", "strategy=fsdp", "Set min_num_params=0"],
    ),
    (
        {
            **LORA,
            "actor_rollout_ref.actor.use_kl_loss": True,
            f"{BLOCK}.credit": "logit-advantage",
            f"{BLOCK}.alpha": 1.0,
            f"{BLOCK}.policy_clip": [0.2, 0.28],
            f"{BLOCK}.is_clip": None,
        },
        [f"{BLOCK}.policy_clip=[0.2, 0.28] with", "use_kl_loss=True", "lora_rank=8", "Set policy_clip=null"],
    ),
    *(
        ({f"actor_rollout_ref.{key}": 2}, [f"{key.split('.')[0]}.ulysses_sequence_parallel_size=2", "Set it to 1"])
        for key in (
            "actor.ulysses_sequence_parallel_size",
            "actor.fsdp_config.ulysses_sequence_parallel_size",
            "ref.ulysses_sequence_parallel_size",
            "ref.fsdp_config.ulysses_sequence_parallel_size",
        )
    ),
    (
        {"algorithm.use_kl_in_reward": True},
        ["algorithm.use_kl_in_reward=True", "nothing here reads", "actor.use_kl_loss=True"],
    ),
    (
        {"algorithm.use_kl_in_reward": True, f"{BLOCK}.grpo_weight": 0.9, f"{BLOCK}.denominator": "all"},
        ["algorithm.use_kl_in_reward=True", "teacher_regularization=ema", "Set algorithm.use_kl_in_reward=False"],
    ),
    (
        {
            "algorithm.rollout_correction": {"bypass_mode": True},
            f"{BLOCK}.credit": "logit-advantage",
            f"{BLOCK}.alpha": 1.0,
            f"{BLOCK}.policy_clip": [0.2, 0.28],
            f"{BLOCK}.is_clip": None,
        },
        ["policy_clip=[0.2, 0.28] with algorithm.rollout_correction.bypass_mode=True", "Set one of them off"],
    ),
    ({"data.refill_until_target": -1}, ["data.refill_until_target=-1: expected a whole number of rounds"]),
    *(
        ({**REFILL, **overrides}, ["data.refill_until_target=2 with", *expected])
        for overrides, expected in (
            ({"data.gen_batch_size": 32}, ["gen_batch_size=32", "Set it to 1"]),
            ({"trainer.v1.trainer_mode": "sdpo_colocate_async"}, ["=sdpo_colocate_async", "a synchronous trainer"]),
            ({"algorithm.filter_groups": {"enable": True}}, ["filter_groups.enable=True", "Set one of them off"]),
            ({"trainer.v1.sampler.custom_sampler.name": "Mine"}, ["custom_sampler.name=Mine", "Leave it out"]),
            ({"trainer.v1.sampler.sync_refill_failed_groups": True}, ["sync_refill_failed_groups=True"]),
            ({"reward.reward_model.enable": True}, ["reward_model.enable=True", "enable_resource_pool=True"]),
        )
    ),
    (
        {"actor_rollout_ref.actor.use_kl_loss": True},
        ["actor_rollout_ref.actor.use_kl_loss=True", "teacher_regularization=ema", "use_kl_loss=False"],
    ),
    (
        {"actor_rollout_ref.ref.fsdp_config.model_dtype": "bf16"},
        ["ref.fsdp_config.model_dtype=bf16", "teacher_regularization=ema", "Set model_dtype=fp32"],
    ),
    (
        {"actor_rollout_ref.ref.fsdp_config.offload_policy": True},
        ["ref.fsdp_config.offload_policy=True", f"{BLOCK}.teacher_placement=auto", "Set offload_policy=False"],
    ),
    ({"distillation.enabled": True}, ["distillation.enabled=True", "Set distillation.enabled=False"]),
    (
        {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 14335},
        [
            "max_prompt_length=2048",
            "max_reprompt_len=10240",
            "max_response_length=1024",
            "14336 tokens (both prompts and twice the response)",
            "ppo_max_token_len_per_gpu=14335",
            "to 14336",
        ],
    ),
    (
        {"data.max_prompt_length": 10241, "actor_rollout_ref.actor.use_dynamic_bsz": False},
        [f"{BLOCK}.max_reprompt_len=10240", "data.max_prompt_length=10241", "Raise max_reprompt_len"],
    ),
    (
        {"actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum-norm"},
        ["loss_agg_mode=seq-mean-token-sum-norm", "loss_scale_factor=null", "Set loss_scale_factor"],
    ),
    (
        {"data.filter_overlong_prompts": False},
        ["data.filter_overlong_prompts=False", "Set data.filter_overlong_prompts=True"],
    ),
    (
        {"actor_rollout_ref.actor.ppo_mini_batch_size": 1, "actor_rollout_ref.rollout.n": 6},
        ["ppo_mini_batch_size=1 with", "rollout.n=6", "6 responses, does not divide among 4 GPUs"],
    ),
]


@pytest.mark.parametrize(
    ("overrides", "expected"), IMPOSSIBLE, ids=["+".join(overrides) for overrides, _ in IMPOSSIBLE]
)
def test_an_impossible_combination_is_explained(overrides, expected):
    with pytest.raises(ValueError) as raised:
        check_training(training_config(overrides))
    for words in expected:
        assert words in str(raised.value)


def test_refills_without_sdpo_are_refused():
    overrides = {"actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla", "data.refill_until_target": 2}
    with pytest.raises(ValueError, match=r"data\.refill_until_target=2 without loss_mode=sdpo"):
        check_training(training_config(overrides))


def test_a_key_without_effect_is_said(caplog):
    overrides = {f"{BLOCK}.teacher_regularization": "frozen", f"{BLOCK}.teacher_update_rate": 0.01}
    with caplog.at_level(logging.WARNING):
        check_training(training_config(overrides))
    assert f"{BLOCK}.teacher_update_rate=0.01 is not read" in caplog.text


def test_a_missing_block_is_explained():
    config = OmegaConf.to_container(training_config({}))
    del config["actor_rollout_ref"]["actor"]["self_distillation"]
    with pytest.raises(ValueError, match=rf"without {BLOCK}.*--config-name sdpo"):
        check_training(config)


@pytest.mark.parametrize(
    "overrides",
    [
        {f"{BLOCK}.teacher_regularization": "trust-region", "actor_rollout_ref.actor.use_kl_loss": True},
        {f"{BLOCK}.teacher_regularization": "frozen", "actor_rollout_ref.ref.fsdp_config.model_dtype": "bf16"},
        STATIC,
        {f"{BLOCK}._target_": "verl.sdpo.config.SelfDistillationConfig"},
    ],
    ids=["fixed reference", "frozen teacher in bf16", "static micro-batches", "target"],
)
def test_what_the_refused_combinations_do_not_touch_passes(overrides):
    check_training(training_config(overrides))


def test_a_training_without_sdpo_is_not_looked_at():
    """Not even what SDPO would refuse: another loss mode must run as if this package were not installed."""
    config = training_config(
        {
            "actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla",
            "trainer.v1.trainer_mode": "sync",
            "actor_rollout_ref.actor.strategy": "megatron",
            "actor_rollout_ref.actor.self_distillation": None,
        }
    )
    before = copy.deepcopy(config)
    check_training(config)
    assert config == before
    assert not is_sdpo(config)


# Data


@pytest.fixture
def parquet(tmp_path):
    def write(*columns):
        path = tmp_path / f"{'-'.join(columns)}.parquet"
        pq.write_table(pa.table({column: ["x"] for column in columns}), path)
        return str(path)

    return write


@pytest.mark.parametrize("column", ["images", "videos", "audios"])
@pytest.mark.parametrize("as_list", [True, False])
def test_multi_modal_data_is_refused(parquet, column, as_list):
    file = parquet("prompt", column)
    with pytest.raises(ValueError) as raised:
        check_training(training_config({"data.train_files": [parquet("prompt"), file] if as_list else file}))
    assert f"data.train_files: {file} has the multi-modal columns ['{column}']" in str(raised.value)


def test_text_data_and_files_of_others_pass(parquet, tmp_path):
    media = parquet("prompt", "images")
    check_training(training_config({"data.train_files": parquet("prompt", "extra_info")}))
    check_training(training_config({"data.train_files": str(tmp_path / "not-here-yet.parquet")}))
    check_training(training_config({"data.train_files": media, "data.image_key": None}))


def test_missing_data_is_named_with_the_setting_that_leads_to_it(parquet, tmp_path):
    here, missing = parquet("prompt"), str(tmp_path / "missing.parquet")
    files = {"data.train_files": [here, "hdfs://somewhere/else.parquet"], "data.val_files": here}
    check_files(training_config(files))
    for key, those in (("train_files", [here, missing]), ("val_files", missing)):
        with pytest.raises(ValueError) as raised:
            check_files(training_config({**files, f"data.{key}": those}))
        assert str(raised.value).startswith(
            f"data.{key}: there is no {missing}. With user.yaml that is vars.dir (SDPO_DIR) / vars.task (TASK);"
        )


def test_a_pattern_stands_for_the_files_that_it_matches(parquet, tmp_path):
    here, nowhere = parquet("prompt"), str(tmp_path / "none-*.parquet")
    pattern = str(Path(here).parent / "*.parquet")
    assert local_files({"train_files": pattern, "val_files": [nowhere]}, "train_files", "val_files") == [
        *sorted(Path(here).parent.glob("*.parquet")),
        Path(nowhere),
    ]
    files = {"data.train_files": pattern, "data.val_files": here}
    check_files(training_config(files))
    with pytest.raises(ValueError, match=r"there is no .*none-\*\.parquet"):
        check_files(training_config({**files, "data.train_files": nowhere}))


def test_data_that_verl_alone_knows_how_to_find_is_not_looked_for(parquet, tmp_path):
    missing = {"data.train_files": str(tmp_path / "missing.parquet"), "data.val_files": parquet("prompt")}
    check_files(training_config({**missing, "data.custom_cls.path": "mine.py"}))
    vanilla = {**missing, "actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla"}
    check_files(training_config(vanilla))
    with pytest.raises(ValueError, match="there is no"):
        check_files(training_config({**vanilla, "vars": {"dir": "of user.yaml"}}))


# Stock verl


def test_every_key_that_is_read_exists_in_stock_verl():
    """Renamed keys of verl would otherwise only show in a run; `self_distillation` and the values are ours."""
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        stock = compose(
            "ppo_trainer",
            [
                f"+{BLOCK}={{max_reprompt_len: 1024}}",
                "actor_rollout_ref.actor.policy_loss.loss_mode=sdpo",
                "trainer.v1.trainer_mode=sdpo",
                "data.filter_overlong_prompts=True",
            ],
        )
    check_training(stock)
    for key in leaves(VALID):
        if not key.startswith(BLOCK):
            assert OmegaConf.select(stock, key, default="absent") != "absent", key


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_hours_that_a_trainer_does_not_look_at_are_refused():
    def of(mode, hours=5, use_v1=True):
        return {"trainer": {"use_v1": use_v1, "v1": {"trainer_mode": mode}, "max_train_hours": hours}}

    for unheeded in (of("sync"), of("sync_stoppable", use_v1=False)):
        with pytest.raises(ValueError, match=r"max_train_hours=5 with .* does not look at it"):
            validate_hours(unheeded)
    validate_hours(of("sync_stoppable"))
    validate_hours(of("sync", hours=None))


@pytest.mark.parametrize(
    ("insight", "trainer", "error"),
    [
        ({"guard": "on"}, {}, r"insight\.guard='on': expected one of off, warn, stop, rollback"),
        ({"guard": "stop"}, {"v1": {"trainer_mode": "sync"}}, "trainer_mode=sync: that trainer has no guard"),
        ({"guard": "stop"}, {"use_v1": False}, "trainer.use_v1=False, .*: that trainer has no guard"),
        ({"guard": "rollback"}, {"save_freq": -1}, "save_freq=-1, .*no good checkpoint"),
        ({"guard": "rollback"}, {"max_actor_ckpt_to_keep": 1}, "max_actor_ckpt_to_keep=1: there would be no good"),
        *(
            (
                {"guard": "rollback"},
                {"v1": {"trainer_mode": mode}},
                f"trainer_mode={mode}: responses of the bad weights",
            )
            for mode in ("sdpo_colocate_async", "separate_async_stoppable")
        ),
    ],
)
def test_a_guard_that_cannot_guard_is_refused(insight, trainer, error):
    ready = {"use_v1": True, "save_freq": 25, "max_actor_ckpt_to_keep": None}
    ready["v1"] = {"trainer_mode": "sync_stoppable"}
    with pytest.raises(ValueError, match=error):
        validate_guard({"insight": insight, "trainer": {**ready, **trainer}})
    validate_guard({"insight": {"guard": "rollback"}, "trainer": ready})
    validate_guard({"insight": {"guard": "stop"}, "trainer": {**ready, "v1": {"trainer_mode": "sdpo_colocate_async"}}})
    validate_guard({"trainer": {**ready, "v1": {"trainer_mode": "sync"}}})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("insight.teacher_eval_freq", 0, "expected a whole number of steps"),
        ("insight.teacher_eval_freq", True, "expected a whole number of steps"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "vanilla", "there is no teacher"),
        ("actor_rollout_ref.rollout.multi_turn.tool_config_path", "tools.yaml", "only answers of a single turn"),
        ("reward.reward_model.enable", True, "colocated reward model"),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_refused(key, value, error):
    ready = {
        "insight.teacher_eval_freq": 5,
        "actor_rollout_ref.rollout.multi_turn": {"tool_config_path": None, "function_tool_path": None},
        "reward": {"reward_model": {"enable": False, "enable_resource_pool": False}},
    }
    config = OmegaConf.create(VALID)
    for name, each in ready.items():
        OmegaConf.update(config, name, each, merge=False)
    validate_teacher_eval(config)
    OmegaConf.update(config, key, value)
    with pytest.raises(ValueError, match=error):
        validate_teacher_eval(config)
    OmegaConf.update(config, "insight.teacher_eval_freq", None)
    validate_teacher_eval(config)


SEPARATE = {
    "trainer.v1": {"trainer_mode": "sdpo_separate_async", "separate_async": {"parameter_sync_step": 4}},
    "actor_rollout_ref.hybrid_engine": True,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    "actor_rollout_ref.rollout.nnodes": 1,
    "actor_rollout_ref.rollout.n_gpus_per_node": 4,
    "actor_rollout_ref.rollout.checkpoint_engine": {"backend": "nccl"},
}


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"data.train_batch_size": 16}, r"train_batch_size=16 with .*=sdpo_separate_async: expected .* = 4 x 8\."),
        ({"actor_rollout_ref.rollout.nnodes": 0}, "nnodes=0 .*generation has nodes of its own"),
        ({"actor_rollout_ref.rollout.n_gpus_per_node": 0}, "n_gpus_per_node=0 .*accelerators of its own"),
        ({"actor_rollout_ref.rollout.checkpoint_engine.backend": "naive"}, r"other processes\. Set nccl\."),
        ({"actor_rollout_ref.hybrid_engine": False}, "hybrid_engine=False .*teacher cannot follow the student"),
        (
            {"actor_rollout_ref.actor.fsdp_config.param_offload": True},
            "parameter_sync_step=4 .*updates would be undone",
        ),
    ],
)
def test_generation_apart_from_training_needs_what_verl_asserts_later(monkeypatch, overrides, error):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    validate_separation(training_config(SEPARATE))
    check_training(training_config(SEPARATE))
    with pytest.raises(ValueError, match=error):
        validate_separation(training_config({**SEPARATE, **overrides}))
    validate_separation(training_config({**SEPARATE, **overrides, "trainer.v1.trainer_mode": "sdpo_colocate_async"}))


@pytest.mark.parametrize(
    "overrides",
    [
        {"algorithm.rollout_correction": {"bypass_mode": True}},
        {"trainer.v1.separate_async.parameter_sync_step": 1, "data.train_batch_size": 8},
        {"actor_rollout_ref.actor.strategy": "fsdp"},
    ],
)
def test_weights_in_ordinary_memory_go_with_what_needs_no_copy_of_them(overrides):
    offload = {"actor_rollout_ref.actor.fsdp_config.param_offload": True}
    validate_separation(training_config({**SEPARATE, **offload, **overrides}))


def test_grpo_may_do_without_accelerators_that_do_both():
    grpo = {"actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla", "actor_rollout_ref.hybrid_engine": False}
    trainer = {"trainer.v1.trainer_mode": "separate_async_stoppable"}
    validate_separation(training_config({**SEPARATE, **trainer, **grpo}))
