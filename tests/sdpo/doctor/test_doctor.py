"""Each check's good and bad outcome, made to happen; the sizes by hand; and the whole in a process of its own."""

import collections
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from transformers import Qwen3Config

import verl
from tests.e2e.tiny import build_model
from verl.sdpo.checks import BLOCK
from verl.sdpo.doctor import cluster, data, installation, machine, services, wandb_login
from verl.sdpo.doctor.__main__ import compose, examine_machine, main, parse_arguments
from verl.sdpo.doctor.finding import FAIL, OK, WARN, Finding
from verl.sdpo.memory.estimate import (
    CPU_PROCESSES,
    GIB,
    Need,
    checkpoints_on_disk,
    cpu_total,
    estimate,
    gpu_peaks,
    micro_batch,
    place_teacher,
)
from verl.sdpo.memory.model_size import Model, read_model
from verl.sdpo.memory.peak import Moment, Passes, Update
from verl.sdpo.preflight.chat_template import load_tokenizer

QWEN3_8B = Model(
    parameters=8_190_735_360,
    root_parameters=1_244_663_808,
    vocabulary=151_936,
    linear_widths=2_727_936,
    layers=36,
    hidden=4096,
    queries=4096,
    keys=1024,
    feed_forward=12_288,
    norms_queries=True,
    tied=False,
)
GH200 = 96 * GIB


def configuration(name: str = "sdpo", *overrides: str):
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(name, list(overrides))
    OmegaConf.resolve(config)
    return config


def only(findings) -> Finding:
    (finding,) = findings
    return finding


# What is installed


def test_python(monkeypatch):
    assert installation.check_python().status == OK
    version = namedtuple("version", "major minor micro")
    monkeypatch.setattr(sys, "version_info", version(3, 13, 0))
    assert installation.check_python().status == FAIL


def test_verl_as_released():
    finding = installation.check_verl()
    assert (finding.status, finding.found) == (OK, "0.9.1, as released")


class FakeVerl:
    """A distribution named verl in `folder`, with one source file whose digest is that of an empty file."""

    class File(type(Path())):
        hash = SimpleNamespace(value="47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU")

        def locate(self):
            return self

    def __init__(self, folder: Path, version="0.9.1", origin=None, source=""):
        self.version, self.origin, self.folder = version, origin, folder
        (folder / "verl").mkdir(parents=True)
        (folder / "verl" / "__init__.py").write_text(source)
        self.files = [self.File(folder / "verl" / "__init__.py")]
        self.module = SimpleNamespace(__file__=str(folder / "verl" / "__init__.py"), __path__=[str(folder / "verl")])

    def locate_file(self, path):
        return self.folder / path

    def read_text(self, name):
        return self.origin


@pytest.mark.parametrize(
    ("options", "status", "found"),
    [
        ({}, OK, "as released"),
        ({"version": "0.8.0"}, FAIL, "0.8.0, but SDPO plugs into 0.9.1 only"),
        ({"origin": json.dumps({"url": "https://example.org/fork.git"})}, WARN, "https://example.org/fork.git"),
        ({"source": "edited = True\n"}, WARN, "but edited"),
    ],
)
def test_verl_versions_forks_and_edits(monkeypatch, tmp_path, options, status, found):
    fake = FakeVerl(tmp_path, **options)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: fake)
    finding = installation.check_verl(fake.module)
    assert finding.status == status
    assert found in finding.found


def test_verl_checkout_that_hides_the_installed_one(monkeypatch, tmp_path):
    installed, checkout = FakeVerl(tmp_path / "installed"), FakeVerl(tmp_path / "checkout")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: installed)
    finding = installation.check_verl(checkout.module)
    assert finding.status == FAIL
    assert f"{tmp_path / 'checkout' / 'verl'} hides" in finding.found


def test_verl_that_is_only_on_the_path(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", nothing)
    assert installation.check_verl().status == FAIL


def test_code_of_another_checkout(monkeypatch, tmp_path):
    """As in a container, whose image holds a copy of its own: unless the mounted one lies over it."""
    monkeypatch.delenv("SDPO_REPO", raising=False)
    assert list(installation.check_checkout()) == []
    repository = Path(installation.__file__).parents[3]
    (tmp_path / "mounted").symlink_to(repository)
    for path in (repository, tmp_path / "mounted"):
        monkeypatch.setenv("SDPO_REPO", str(path))
        assert only(installation.check_checkout()).status == OK
    monkeypatch.setenv("SDPO_REPO", str(tmp_path))
    finding = only(installation.check_checkout())
    assert finding.status == FAIL
    assert f"{repository / 'verl/sdpo'} runs" in finding.found
    assert f"mount it over {repository} as well" in finding.fix


def test_plugin_loaded():
    finding = installation.check_plugin()
    assert finding.status == OK
    assert "registered SelfDistillationSync" in finding.found


def test_plugin_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **selection: [])
    finding = installation.check_plugin()
    assert finding.status == FAIL
    assert "entry point" in finding.found


@pytest.mark.parametrize(("policy", "status"), [("none", FAIL), ("other", FAIL), ("other,sdpo", OK), ("auto", OK)])
def test_plugin_that_is_switched_off(monkeypatch, policy, status):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    assert installation.check_plugin().status == status


def test_plugin_that_registered_nothing(monkeypatch):
    from verl.trainer.ppo.v1 import trainer_base

    monkeypatch.delitem(trainer_base.TRAINER_REGISTRY, "sdpo")
    finding = installation.check_plugin()
    assert finding.status == FAIL
    assert "registered nothing: Unknown trainer 'sdpo'" in finding.found


def failing_import(monkeypatch, *names: str) -> None:
    stock = importlib.import_module

    def import_module(name, *args):
        if name in names:
            raise ImportError(f"cannot import\n  {name}")
        return stock(name, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_plugin_that_verl_could_not_load_shows_the_exception_that_verl_hides(monkeypatch):
    failing_import(monkeypatch, "verl.sdpo.plugin")
    finding = installation.check_plugin()
    assert finding.status == FAIL
    assert finding.found == "ImportError: cannot import verl.sdpo.plugin"


def engine_version(monkeypatch, version: str | None) -> None:
    def answer(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", answer)
    monkeypatch.setitem(sys.modules, "verl.third_party.vllm", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "sglang", SimpleNamespace())


@pytest.mark.parametrize(
    ("engine", "version", "status"),
    [
        ("vllm", "0.24.0", OK),
        ("vllm", "0.18.0", OK),
        ("vllm", "0.12.0", FAIL),
        ("vllm", None, FAIL),
        ("sglang", "0.5.12", OK),
        ("sglang", "0.5.2", FAIL),
        ("trtllm", "1.0", WARN),
    ],
)
def test_engine_versions(monkeypatch, engine, version, status):
    engine_version(monkeypatch, version)
    assert installation.check_engine(engine).status == status


def test_engine_that_cannot_be_imported(monkeypatch):
    engine_version(monkeypatch, "0.24.0")
    failing_import(monkeypatch, "verl.third_party.vllm")
    finding = installation.check_engine("vllm")
    assert finding.status == FAIL
    assert "cannot import verl.third_party.vllm" in finding.found


def test_verl_still_provides_for_the_engines_that_we_say():
    root = Path(verl.__file__).parent
    assert 'vs.parse(package_version) >= vs.parse("0.18.0")' in (root / "third_party/vllm/__init__.py").read_text()
    sglang = (root / "workers/rollout/sglang_rollout/async_sglang_server.py").read_text()
    assert 'version.parse(sglang.__version__) >= version.parse("0.5.5")' in sglang


@pytest.mark.parametrize(
    ("implementation", "packed", "installed", "status"),
    [
        (None, True, True, OK),
        (None, True, False, FAIL),
        ("sdpa", True, False, FAIL),
        ("sdpa", False, False, OK),
        ("flash_attention_2", False, False, FAIL),
    ],
)
def test_attention(monkeypatch, implementation, packed, installed, status):
    if installed:
        monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(__version__="2.8.3"))
    else:
        failing_import(monkeypatch, "flash_attn")
    override = {"attn_implementation": implementation} if implementation else {}
    finding = installation.check_attention({"override_config": override, "use_remove_padding": packed})
    assert finding.status == status
    assert ("attn_implementation=sdpa" in finding.fix) == (status == FAIL)


# Sizes


def test_parameters_of_qwen3_8b_by_hand(tmp_path):
    """Embedding and head: 2 x 151936 x 4096 = 1,244,659,712. A layer: q and o 2 x 4096 x 4096, k and v
    2 x 4096 x 1024, their norms 2 x 128, MLP 3 x 4096 x 12288, norms 2 x 4096: 192,946,432. Times 36, and the last
    norm's 4096: 8,190,735,360. Outside the layers: 1,244,659,712 + 4096. Inputs and outputs of a layer's linear layers:
    q and o 2 x 8192, k and v 2 x 5120, MLP 3 x 16,384: 75,776. Times 36: 2,727,936.
    """
    Qwen3Config(
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)
    assert read_model(str(tmp_path), trust_remote_code=False) == QWEN3_8B


def test_estimate_of_qwen3_8b_on_one_node_of_four_by_hand():
    """P = 8,190,735,360 parameters over 4 GPUs, L = 192,946,432 in a layer, R = 1,244,663,808 outside them. Per GPU:
    weights 4P/4, gradients 4P/4, Adam's moments 8P/4 = 4P bytes in training, and P for its step; without gradients 3P
    stay while sampling. In bfloat16: gathered 2 (R + 2 L); a micro-batch has at most 28,672
    tokens of the teacher, 3 x 12,288 + 2 x 4096 wide, and half as many of the student, whose 36 inputs of 4096 are
    kept. A layer keeps per token: norms
    16 x 4096, of queries and keys 6 x 5120, attention 2 (3 x 4096 + 2 x 1024), feed-forward 8 x 12,288 = 223,232
    bytes; in its backward pass 4 x 12,288 more, and the gradients of L weights twice. The head: 1024 x 151,936 logits
    in both types, and the gradient of 151,936 x 4096 weights in both. Engine: 2P over verl's default of two GPUs.
    Host: the teacher, 4P for the node's four shards. On disk: weights 4P, moments 8P, teacher 4P.
    """
    parameters = QWEN3_8B.parameters
    passes = Passes(
        gathered=2 * (1_244_663_808 + 2 * 192_946_432),
        activations=36 * 2 * 4096 * 14_336,
        moments=(
            Moment("the teacher's forward pass", 2 * 45_056 * 28_672),
            Moment("a layer's backward pass", (223_232 + 4 * 12_288) * 14_336 + 6 * 192_946_432),
            Moment("the head", 6 * 1024 * 151_936 + 6 * 151_936 * 4096),
        ),
    )
    assert estimate(configuration(), QWEN3_8B) == Need(
        update=Update(state=4 * parameters, teacher=0, passes=passes, optimizer_step=parameters),
        resident_state=3 * parameters,
        engine_weights=parameters,
        host=4 * parameters,
        checkpoint=16 * parameters,
    )


def test_peaks_of_qwen3_8b_on_a_gh200_by_hand():
    """96 GiB. Update: 4 x 7.628 + 3.04 gathered + 3.94 kept + 4.72 in a layer's backward pass = 42.2 GiB.
    Sampling: 0.55 x 96 + 3 x 7.628 = 75.7 GiB, of which the KV cache has 0.55 x 96 - 7.628 = 45.2 GiB.
    """
    config = configuration()
    peaks = gpu_peaks(estimate(config, QWEN3_8B), config.actor_rollout_ref.rollout, GH200)
    assert [round(peak / GIB, 1) for peak in peaks] == [42.2, 75.7, 45.2]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("param_offload=True", {"resident_state": 2, "host": 8}),
        ("optimizer_offload=True", {"resident_state": 1, "host": 12}),
        # FSDP2's own offload: weights, gradients and moments never stay on the GPU.
        ("offload_policy=True", {"state": 0, "optimizer_step": 0, "resident_state": 0, "host": 20}),
        ("model_dtype=bf16", {"state": 2, "optimizer_step": 0.5, "resident_state": 1.5, "checkpoint": 10}),
        ("fsdp_size=2", {"state": 8, "optimizer_step": 2, "resident_state": 6, "host": 8}),
        # Gradients are whole until the last micro-batch: 4P bytes on each GPU.
        ("use_no_sync_for_gradient_accumulation=True", {"state": 7}),
    ],
)
def test_offloading_sharding_and_dtype_move_bytes(override, changed):
    """In units of P bytes, against training 4 and its step 1, resident 3, host 4 (the teacher), checkpoint 16."""
    need = estimate(configuration("sdpo", f"actor_rollout_ref.actor.fsdp_config.{override}"), QWEN3_8B)
    units = {"state": 4, "optimizer_step": 1, "resident_state": 3, "host": 4, "checkpoint": 16}
    found = {name: getattr(need if hasattr(need, name) else need.update, name) for name in units}
    assert {name: size / QWEN3_8B.parameters for name, size in found.items()} == {**units, **changed}


def test_teacher_whose_root_stays_gathered_by_hand():
    """FSDP1, on one node of four: the teacher's 4P bytes and as many for its pinned gradients in ordinary memory, and
    on each GPU its embeddings, last norm and head in bfloat16, 2 x 1,244,663,808 bytes. With FSDP2 these are its root
    unit where head and embedding are one.
    """
    fsdp1 = ["actor_rollout_ref.actor.strategy=fsdp", "actor_rollout_ref.ref.strategy=fsdp"]
    need, fsdp2 = estimate(configuration("sdpo", *fsdp1), QWEN3_8B), estimate(configuration(), QWEN3_8B)
    assert need.host == 8 * QWEN3_8B.parameters
    assert need.update.passes.gathered - fsdp2.update.passes.gathered == 2_489_327_616
    tied = dataclasses.replace(QWEN3_8B, tied=True)
    assert estimate(configuration(), tied).update.passes.gathered == need.update.passes.gathered
    live = estimate(configuration("sdpo", *fsdp1, f"{BLOCK}.teacher_regularization=live"), QWEN3_8B)
    assert (live.host, live.update.passes.gathered) == (0, fsdp2.update.passes.gathered)


@pytest.mark.parametrize(("strategy", "in_memory"), [("fsdp2", 4), ("fsdp", 8)])
def test_a_teacher_rests_on_the_gpu_or_in_memory(strategy, in_memory):
    """In units of P bytes: 4P/4 on each GPU, while training and sampling, or the node's four shards in memory, to which
    FSDP1 adds pinned gradients.
    """
    strategies = [f"actor_rollout_ref.{role}.strategy={strategy}" for role in ("actor", "ref")]
    config = configuration("sdpo", *strategies)
    parameters, rollout = QWEN3_8B.parameters, config.actor_rollout_ref.rollout
    on_gpu, elsewhere = (estimate(config, QWEN3_8B, teacher_on_gpu=value) for value in (True, False))
    assert (on_gpu.update.teacher, on_gpu.host) == (parameters, 0)
    assert (elsewhere.update.teacher, elsewhere.host) == (0, in_memory * parameters)
    peaks = [gpu_peaks(need, rollout, GH200) for need in (on_gpu, elsewhere)]
    assert [a - b for a, b in zip(*peaks, strict=True)] == [parameters, parameters, 0]


@pytest.mark.parametrize(
    ("gpus_per_node", "on_gpu", "peaks"),
    # Per GPU on 4: state 4 x 7.628, passes 11.69, teacher 7.628; while sampling 0.55 x 96 + 4 x 7.628 of at most 81.6.
    [(4, False, ("49.8", "83.3")), (8, True, ("30.8", "68.1"))],
)
def test_auto_puts_the_teacher_on_the_gpu_where_that_is_not_tight_by_hand(gpus_per_node, on_gpu, peaks):
    config = configuration("sdpo", f"trainer.n_gpus_per_node={gpus_per_node}")
    place = place_teacher(config, QWEN3_8B, GH200)
    assert place.on_gpu == on_gpu
    assert "update would take {} GiB and sampling {} GiB of 96.0 GiB, where 85% are".format(*peaks) in str(place)
    need = estimate(config, QWEN3_8B, teacher_on_gpu=on_gpu)
    assert machine.check_gpu_memory(need, config.actor_rollout_ref.rollout, GH200).status == OK


@pytest.mark.parametrize(("placement", "where"), [("gpu", "kept on the GPU"), ("cpu", "offloaded to host memory")])
def test_a_place_that_is_asked_for_is_taken(placement, where):
    config = configuration("sdpo", f"actor_rollout_ref.actor.self_distillation.teacher_placement={placement}")
    for size in (GIB, 1000 * GIB):
        assert str(place_teacher(config, QWEN3_8B, size)) == f"its weights are {where}; teacher_placement={placement}"


def test_only_a_teacher_that_is_a_second_model_has_a_place():
    block = "actor_rollout_ref.actor.self_distillation.teacher_regularization"
    for name, *overrides in (
        ("sdpo", f"{block}=live"),
        ("sdpo", f"{block}=frozen", "actor_rollout_ref.model.lora_rank=8"),
        ("baseline_grpo", "actor_rollout_ref.actor.use_kl_loss=True"),
    ):
        assert place_teacher(configuration(name, *overrides), QWEN3_8B, GH200) is None


def test_teachers_that_are_no_second_model_or_not_saved():
    parameters = QWEN3_8B.parameters
    live = estimate(configuration("sdpo", f"{BLOCK}.teacher_regularization=live"), QWEN3_8B)
    assert (live.host, live.checkpoint) == (0, 12 * parameters)
    frozen = estimate(configuration("sdpo", f"{BLOCK}.teacher_regularization=frozen"), QWEN3_8B)
    assert (frozen.host, frozen.checkpoint) == (4 * parameters, 12 * parameters)


def test_lora_trains_its_adapter_only_by_hand():
    """At rank 32 the adapter has A = 32 x 2,727,936 parameters. On one GPU: weights 4(P + A) bytes, gradients and
    moments 12 A. A frozen teacher is no second model; a moving average is one in float32, with an adapter of its own.
    """
    lora = ["actor_rollout_ref.model.lora_rank=32", "trainer.n_gpus_per_node=1"]
    adapter = 87_293_952
    weights = 4 * (QWEN3_8B.parameters + adapter)
    ema, frozen = (
        estimate(configuration("sdpo", *lora, f"{BLOCK}.teacher_regularization={kind}"), QWEN3_8B)
        for kind in ("ema", "frozen")
    )
    for need in (ema, frozen):
        assert (need.update.state, need.resident_state) == (weights + 12 * adapter, weights + 8 * adapter)
        # The head's weight has no gradient.
        assert dict(need.update.passes.moments)["the head"] == 10 * 1024 * 151_936
    assert (frozen.host, frozen.checkpoint) == (0, weights + 8 * adapter)
    assert (ema.host, ema.checkpoint) == (weights, 2 * weights + 8 * adapter)
    penalty = "actor_rollout_ref.actor.use_kl_loss=True"
    assert estimate(configuration("baseline_grpo", lora[0], penalty), QWEN3_8B).host == 0


def test_grpo_has_no_teacher_and_logits_of_prompts_too():
    need = estimate(configuration("baseline_grpo"), QWEN3_8B)
    assert need.host == 0
    assert need.update.passes.worst == Moment("verl's logits", (2048 + 8192) * 151_936 * 4)


@pytest.mark.parametrize(("topk", "copies"), [("100", 5), ("null", 11)])
def test_all_logits_at_once(topk, copies):
    """Float32 tensors of 14,336 tokens x 151,936, as many as the student may have in a dynamic micro-batch."""
    need = estimate(configuration("sdpo", f"{BLOCK}.head=eager", f"{BLOCK}.distillation_topk={topk}"), QWEN3_8B)
    assert need.update.passes.worst == Moment("all logits at once", copies * 4 * 14_336 * 151_936)


def test_logits_of_two_models_by_chunks():
    """Of 256 tokens 12 tensors, of 256 more the logits in bf16, the teacher's head in bf16, the gradient of the
    student's in both types; of 1024 tokens 3 tensors, and two heads.
    """
    moments = {
        setting: dict(estimate(configuration("sdpo", f"{BLOCK}.{setting}"), QWEN3_8B).update.passes.moments)
        for setting in ("distillation_topk=null", "teacher_regularization=trust-region")
    }
    head = 151_936 * 4096
    compared = moments["distillation_topk=null"]["the comparison of distributions"]
    assert compared == (12 * 4 + 2) * 256 * 151_936 + 2 * head + 6 * head
    mixed = moments["teacher_regularization=trust-region"]["the mix of two models"]
    assert mixed == 3 * 4 * 1024 * 151_936 + 2 * 2 * head


def test_micro_batches():
    """Rows of 2048 + 8192, the teacher's of 10,240 + 8192 tokens."""

    def rows(*overrides):
        overrides = ("actor.use_dynamic_bsz=False", *overrides)
        batch = micro_batch(configuration("sdpo", *(f"++actor_rollout_ref.{override}" for override in overrides)))
        return (*batch.student, *batch.teacher, batch.responses)

    sdpa, two = "model.override_config.attn_implementation=sdpa", "actor.ppo_micro_batch_size_per_gpu=2"
    assert rows() == (10_240, 0, 18_432, 0, 8192)
    assert rows(two) == (20_480, 0, 36_864, 0, 16_384)
    # One line: a prompt of 2048 with two responses, and the teacher's of 10,240.
    assert rows(two, sdpa) == (18_432, 18_432**2, 26_624, 26_624**2, 16_384)
    # Padded rows: a mask for each. One row alone needs none.
    padded = ("model.use_remove_padding=False", "actor.shared_prefix=off")
    assert rows(two, sdpa, *padded) == (20_480, 2 * 10_240**2, 36_864, 2 * 18_432**2, 16_384)
    assert rows(sdpa, *padded) == (10_240, 0, 18_432, 0, 8192)
    dynamic = ("actor.use_dynamic_bsz=True", "actor.ppo_max_token_len_per_gpu=30000")
    assert rows(*dynamic) == (15_000, 0, 30_000, 0, 15_000)


def test_checkpoints_on_disk():
    def copies(save_freq, keep):
        return checkpoints_on_disk({"save_freq": save_freq, "max_actor_ckpt_to_keep": keep})

    assert copies(-1, 1) == 0
    assert copies(5, None) is None
    assert [copies(5, keep) for keep in (0, -1)] == [None, None]
    assert [copies(5, keep) for keep in (1, 2, 3)] == [2, 3, 4]


def test_without_an_accelerator_everything_is_in_memory():
    passes = Passes(gathered=0, activations=0, moments=(Moment("some", 2), Moment("less", 1)))
    update = Update(state=1, teacher=0, passes=passes, optimizer_step=0)
    need = Need(update, resident_state=0, engine_weights=4, host=8, checkpoint=0)
    assert cpu_total(need, kv_cache=16) == 31 + CPU_PROCESSES


# The machine


def gpus(count: int, free: float = 1.0) -> list[machine.GPU]:
    return [machine.GPU("NVIDIA GH200", GH200, int(free * GH200))] * count


def test_gpus(monkeypatch):
    monkeypatch.delenv("ROCR_VISIBLE_DEVICES", raising=False)
    assert machine.check_gpus(gpus(4), wanted=4).status == OK
    assert machine.check_gpus(gpus(4, free=0.5), wanted=4).status == WARN
    assert machine.check_gpus([], wanted=4).status == FAIL
    assert machine.check_gpus(gpus(2), wanted=4).fix == "Set trainer.n_gpus_per_node=2."
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,1,2,3")
    assert "unset ROCR_VISIBLE_DEVICES" in machine.check_gpus(gpus(4), wanted=4).fix


def test_find_gpus_reads_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA GH200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (60 * GIB, 96 * GIB))
    assert machine.find_gpus() == [machine.GPU("NVIDIA GH200", total=96 * GIB, free=60 * GIB)]


@pytest.mark.parametrize(
    ("memory", "status", "says", "fix"),
    [
        (96, OK, "a layer's backward pass 4.7 GiB), sampling 75.7 GiB (of it KV cache 45.2 GiB)", ""),
        (60, WARN, "tight", "param_offload=True"),  # 55.9 of 60 GiB while sampling
        (48, FAIL, "sampling 49.3 GiB", "param_offload=True"),
        (12, FAIL, "the engine's weights alone take 7.6 GiB", "tensor_model_parallel_size"),
    ],
)
def test_gpu_memory(memory, status, says, fix):
    config = configuration()
    need = estimate(config, QWEN3_8B)
    finding = machine.check_gpu_memory(need, config.actor_rollout_ref.rollout, memory * GIB)
    assert finding.status == status
    assert says in finding.found
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.n_gpus_per_node=2"], "Use more GPUs"),
        (
            ["actor_rollout_ref.model.enable_gradient_checkpointing=False"],
            "enable_gradient_checkpointing=True, and lower",
        ),
        (
            [f"{BLOCK}.head=eager", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2"],
            f"Take {BLOCK}.head=chunked",
        ),
    ],
)
def test_advice_is_about_the_largest_part_of_an_update(overrides, says):
    config = configuration("sdpo", "actor_rollout_ref.rollout.gpu_memory_utilization=0.5", *overrides)
    need = estimate(config, QWEN3_8B)
    finding = machine.check_gpu_memory(need, config.actor_rollout_ref.rollout, 64 * GIB)
    assert finding.status == FAIL
    assert says in finding.fix, finding


def test_memory(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    assert machine.check_memory("a run", 7 * GIB).status == OK
    assert machine.check_memory("a run", 9 * GIB).status == FAIL


def test_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * GIB))
    folder = str(tmp_path / "not" / "yet")
    assert machine.check_disk(folder, 40 * GIB, copies=2).status == OK
    assert machine.check_disk(folder, 60 * GIB, copies=2).status == FAIL
    assert machine.check_disk(folder, 60 * GIB, copies=None).status == WARN
    assert machine.check_disk(folder, 60 * GIB, copies=0).status == WARN
    # What an earlier attempt has saved needs no room any more.
    (tmp_path / "not" / "yet" / "global_step_5").mkdir(parents=True)
    assert machine.check_disk(folder, 60 * GIB, copies=2).status == OK
    assert machine.check_disk(folder, 120 * GIB, copies=1).status == FAIL
    (tmp_path / "file").touch()
    assert "cannot be written" in machine.check_disk(str(tmp_path / "file" / "under"), GIB, copies=2).found


def test_model_that_is_not_here(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert machine.missing_model("some/model").status == WARN
    assert machine.missing_model(str(tmp_path)).status == FAIL
    assert machine.missing_model("outputs/quickstart/model").status == FAIL
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert machine.missing_model("some/model").status == FAIL


def capacity(monkeypatch, path, find_gpus) -> dict[str, Finding]:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(machine, "find_gpus", find_gpus)
    config = configuration("sdpo", f"actor_rollout_ref.model.path={path}")
    return {finding.subject: finding for finding in machine.check_capacity(config)}


def test_capacity_of_a_machine_with_gpus(monkeypatch, tmp_path):
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    Qwen3Config(vocab_size=16, intermediate_size=8, head_dim=8, **tiny).save_pretrained(tmp_path)
    found = capacity(monkeypatch, tmp_path, lambda: gpus(4))
    assert list(found) == ["GPUs", "model", "teacher", "GPU memory", "memory", "checkpoints"]
    assert "on the GPU" in found["teacher"].found and "teacher 0.0 GiB" in found["GPU memory"].found


def test_model_folder_without_a_model(monkeypatch, tmp_path):
    assert "config.json" in capacity(monkeypatch, tmp_path, lambda: gpus(4))["model"].found


def test_driver_and_model_problems_are_findings(monkeypatch, tmp_path):
    def refuse():
        raise RuntimeError("The NVIDIA driver on your system is too old")

    (tmp_path / "config.json").write_text('{"model_type": "nobody_knows_this"}')
    found = capacity(monkeypatch, tmp_path, refuse)
    assert {subject: finding.status for subject, finding in found.items()} == {"GPUs": FAIL, "model": FAIL}
    assert "too old" in found["GPUs"].found
    assert "nobody_knows_this" in found["model"].found


# What a run meets


def write_parquet(path: Path, *columns: str, prompt=({"role": "user", "content": "2 + 2?"},)) -> Path:
    pq.write_table(pa.table({column: [list(prompt) if column == "prompt" else "math"] for column in columns}), path)
    return path


def test_data(tmp_path):
    good = write_parquet(tmp_path / "good.parquet", "prompt", "data_source", "reward_model")
    bad = write_parquet(tmp_path / "bad.parquet", "prompt")
    (tmp_path / "text.parquet").write_text("not a parquet file")

    def check(*files, **settings):
        names = {"prompt_key": "prompt", "reward_fn_key": "data_source", "custom_cls": {"path": None}}
        return data.check_data({**names, **settings, "val_files": [str(file) for file in files]}, "val_files", None)

    assert only(check(good)).status == only(check(tmp_path / "g*.parquet")).status == OK
    assert "lacks ['data_source', 'reward_model']" in only(check(bad)).found
    assert "lacks ['question']" in only(check(good, prompt_key="question")).found
    assert only(check(tmp_path / "no", custom_cls={"path": "mine.py"})).status == OK
    absent, broken = check(tmp_path / "no", tmp_path / "text.parquet")
    assert (absent.status, broken.status) == (FAIL, FAIL)
    assert "is not there" in absent.found
    assert "\n" not in broken.found


def test_data_that_the_chat_template_refuses(tmp_path):
    columns = ("prompt", "data_source", "reward_model")
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"})
    refused = write_parquet(tmp_path / "refused.parquet", *columns, prompt=chat)
    taken = write_parquet(tmp_path / "taken.parquet", *columns)
    config = configuration("sdpo", f"data.val_files=[{refused},{taken}]")
    tokenizer = load_tokenizer({**config.actor_rollout_ref.model, "path": str(build_model(tmp_path / "model"))})
    tokenizer.chat_template = "{{ raise_exception('No system role.') if messages[0]['role'] == 'system' }}"
    findings = list(data.check_data(config.data, "val_files", tokenizer))
    assert [finding.status for finding in findings] == [FAIL, OK]
    assert "cannot render row 0 (data_source math, roles system, user): TemplateError: No system role." in (
        findings[0].found
    )


@pytest.fixture
def plain_environment(monkeypatch):
    for variable in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_folder_for_temporary_files_by_hand(plain_environment, variable):
    """TMPDIR + /ray/ + session_YYYY-MM-DD_hh-mm-ss_microseconds_PID + /sockets/plasma_store: with a PID of 4 digits
    5 + 39 + 21 bytes come on top, and 107 - 65 = 42 are left. A letter outside ASCII is two bytes.
    """
    plain_environment.setattr(os, "getpid", lambda: 1234)
    config = configuration()
    assert services.check_sockets(config).found == "paths of at most 69 of 107 bytes"
    plain_environment.setenv(variable, "/" + "t" * 41)
    assert services.check_sockets(config) == Finding(OK, "sockets", "paths of at most 107 of 107 bytes")
    plain_environment.setenv(variable, "/" + "t" * 40 + "é")
    finding = services.check_sockets(config)
    assert finding.status == FAIL
    assert f"{variable} is 1 bytes too long" in finding.found


def test_ray_refuses_the_paths_that_the_doctor_refuses(plain_environment):
    """Ray's own check, of the path that Ray itself makes."""
    from ray._private import node, utils

    plain_environment.setattr(node.Node, "__init__", lambda self: None)
    config = configuration()
    date = datetime.datetime.today().strftime("%Y-%m-%d_%H-%M-%S_%f")
    for length in range(20, 60):
        folder = "/tmp/" + "t" * (length - 5)
        plain_environment.setenv("TMPDIR", folder)
        ray = node.Node()
        ray._sockets_dir = f"{folder}/ray/session_{date}_{os.getpid()}/sockets"
        ray._incremental_dict = collections.defaultdict(int)
        try:
            ray._prepare_socket_file(None, default_prefix="plasma_store")
            status = OK
        except OSError:
            status = FAIL
        assert services.check_sockets(config).status == status, length
    source = Path(node.__file__).read_text()
    assert 'f"session_{date_str}_{os.getpid()}"' in source and '"%Y-%m-%d_%H-%M-%S_%f"' in source
    assert "os.path.join(self.temp_dir, self._session_name)" in source
    assert 'os.path.join(self._session_dir, "sockets")' in source
    assert utils.validate_socket_filepath("/" + "t" * (services.LONGEST_PATH - 1)) is None


def test_sockets_that_lie_elsewhere(plain_environment):
    plain_environment.setenv("TMPDIR", "/" + "t" * 60)
    assert services.check_sockets(configuration()).status == FAIL
    short = configuration("sdpo", "+ray_kwargs.ray_init._temp_dir=/tmp/r")
    assert services.check_sockets(short).status == OK
    # vLLM's: TMPDIR + / + a uuid4 of 36 bytes.
    plain_environment.setenv("TMPDIR", "/" + "t" * 70)
    assert "TMPDIR is 1 bytes too long" in services.check_sockets(short).found
    plain_environment.setenv("VLLM_RPC_BASE_PATH", "/tmp")
    assert services.check_sockets(short).status == OK
    plain_environment.setenv("RAY_ADDRESS", "auto")
    assert services.check_sockets(configuration()).status == OK


@pytest.mark.parametrize(("hard", "status"), [(8191, WARN), (8192, OK), (-1, OK)])
def test_open_files(monkeypatch, hard, status):
    monkeypatch.setattr("resource.getrlimit", lambda what: (1024, hard))
    assert cluster.check_open_files().status == status


def test_ray_names_the_number_of_open_files():
    source = Path(importlib.import_module("ray._private.worker").__file__).read_text()
    assert f"Fix with 'ulimit -n {cluster.OPEN_FILES}'" in source


@pytest.mark.parametrize(
    ("free", "platform", "status"),
    [(10, None, OK), (9, None, WARN), (0.25, "cpu", WARN), (0.24, "cpu", FAIL)],
)
def test_shared_memory(monkeypatch, free, platform, status):
    """On a machine with 64 GiB Ray's store takes 10 GB = 9.3 GiB; a bucket of weights has 256 MiB without GPUs."""
    monkeypatch.setenv("VERL_PLATFORM", platform or "cuda")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=int(free * GIB), f_frsize=1))
    assert cluster.check_shared_memory(configuration("sdpo", f"machine={platform or 'gpu'}")).status == status


def test_nodes(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    several = {"nnodes": 2, "n_gpus_per_node": 4}
    assert list(cluster.check_nodes({**several, "nnodes": 1})) == []
    assert "RAY_ADDRESS is not set" in only(cluster.check_nodes(several)).found
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    for gpus, status in (([4, 4], OK), ([4, 2], FAIL), ([4, 2, 8], OK), ([4], FAIL)):
        monkeypatch.setattr(cluster, "living_nodes", lambda gpus=gpus: [{"Resources": {"GPU": n}} for n in gpus])
        assert only(cluster.check_nodes(several)).status == status, gpus

    def refuse():
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setattr(cluster, "living_nodes", refuse)
    assert "RAY_ADDRESS=10.0.0.1:6379: ConnectionError: nobody answers" in only(cluster.check_nodes(several)).found


def test_sandbox(monkeypatch):
    from verl.utils.reward_score.feedback.sandbox import canaries
    from verl.utils.reward_score.feedback.sandbox.api import Level

    def confines_to(level):
        found = SimpleNamespace(level=level, shortcomings=lambda wanted: "  landlock: no; needs Linux 5.13")
        monkeypatch.setattr(canaries, "examine", lambda config: found)
        return services.check_sandbox()

    assert confines_to(Level.L2).status == OK
    assert confines_to(Level.L1) == Finding(
        WARN,
        "sandbox",
        "level L1, the least allowed is L2: programs cannot be graded here",
        "landlock: no; needs Linux 5.13",
    )
    monkeypatch.setenv("SDPO_SANDBOX_MIN_LEVEL", "L9")
    assert "SDPO_SANDBOX_MIN_LEVEL='L9'" in services.check_sandbox().found


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """Sets the environment that wandb reads, from nothing."""
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_wandb(wandb, tmp_path):
    assert list(services.check_wandb(["console"])) == []
    assert only(services.check_wandb(["console", "wandb"])).status == WARN
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    finding = only(services.check_wandb("wandb"))
    assert finding.status == OK
    assert "secret" not in finding.found
    wandb.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert "no login for wandb.example.org" in only(services.check_wandb("wandb")).found
    wandb.setenv("WANDB_MODE", "offline")
    assert only(services.check_wandb("wandb")).status == OK


@pytest.mark.parametrize(
    ("url", "netrc", "found"),
    [
        ("https://api.wandb.ai", "machine api.wandb.ai login user password KEY\n", True),
        ("https://api.wandb.ai", "machine\tapi.wandb.ai\n  login user\n  password   KEY\n", True),
        ("https://api.wandb.ai/", 'machine "api.wandb.ai" login user password KEY\n', True),
        ("http://localhost:8080/", "machine localhost:8080 login user password KEY\n", True),
        ("http://localhost:8080/", "machine localhost login user password KEY\n", False),
        ("https://api.wandb.ai", "default login user password KEY\n", True),
        ("https://api.wandb.ai", "# machine api.wandb.ai login user password KEY\n", False),
        ("https://api.wandb.ai", "machine api.wandb.ai.example.org login user password KEY\n", False),
        ("https://api.wandb.ai", "machine api.wandb.ai login user\n", False),
        ("https://api.wandb.ai", "not a netrc file", False),
        ("https://api.wandb.ai", b"machine \xff\xfe", False),
    ],
)
def test_wandb_logins_are_found_as_wandb_finds_them(wandb, tmp_path, url, netrc, found):
    content = netrc if isinstance(netrc, bytes) else netrc.replace("KEY", "k" * 40).encode()
    wandb_login.netrc_file().write_bytes(content)
    wandb.setenv("WANDB_BASE_URL", url)
    assert wandb_login.has_login() == found
    if not isinstance(netrc, bytes):  # wandb itself ends with a stack trace
        from wandb.sdk.lib.wbauth import HostUrl, wbnetrc

        assert (wbnetrc.read_netrc_auth_with_source(host=HostUrl(url)) is not None) == found
    script = [sys.executable, wandb_login.__file__]
    assert subprocess.run(script, timeout=60).returncode == (0 if found else 1)


def test_the_file_of_wandb_logins_may_be_elsewhere(wandb, tmp_path):
    assert wandb_login.netrc_file() == tmp_path / ".netrc"
    (tmp_path / "_netrc").touch()
    assert wandb_login.netrc_file() == tmp_path / "_netrc"
    wandb.setenv("NETRC", "~/mine")
    assert wandb_login.netrc_file() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("environment", "can_log"),
    [
        ({"WANDB_API_KEY": "k"}, True),
        ({"WANDB_MODE": "offline"}, True),
        ({"WANDB_MODE": "disabled"}, False),
        ({}, False),
    ],
)
def test_wandb_without_a_file(wandb, environment, can_log):
    for variable, value in environment.items():
        wandb.setenv(variable, value)
    assert wandb_login.can_log() == can_log


# The whole


def test_mistakes_in_the_configuration_are_findings(monkeypatch, capsys):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert main(["--config-name", "nobody_wrote_this", "--installation-only"]) == 1
    assert "Cannot find primary config 'nobody_wrote_this'" in capsys.readouterr().out
    main(["--installation-only", "actor_rollout_ref.actor.self_distillation.alpha=2"])
    assert "FAIL  configuration   sdpo: ValueError: actor_rollout_ref.actor.self_distillation.alpha=2: expected" in (
        capsys.readouterr().out
    )
    config = compose(parse_arguments([]))
    assert "not estimated" in next(examine_machine(config, is_valid=False)).found
    main(["--installation-only", "machine=cpu"])
    assert "Without an accelerator set VERL_PLATFORM=cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config-name", "broken"], "ParserError"),
        (["--config-name", "dangling"], "Interpolation key 'nope.nope' not found"),
        (["--config-name", "absent"], "Cannot find primary config 'absent'"),
        (["--config-name", "dangling", "x=["], "OverrideParseException"),
        (["--config-name", "dangling", "nokey=3"], "Could not override 'nokey'"),
    ],
)
def test_configurations_that_cannot_be_composed(tmp_path, arguments, says):
    (tmp_path / "broken.yaml").write_text("defaults: [sdpo\n")
    (tmp_path / "dangling.yaml").write_text("defaults: [sdpo, _self_]\nx: ${nope.nope}\n")
    with pytest.raises(ValueError, match=says):
        compose(parse_arguments(["--config-dir", str(tmp_path), *arguments]))


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "verl.sdpo.doctor", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_this_machine_without_an_accelerator(tmp_path):
    build_model(tmp_path)
    write_parquet(tmp_path / "train.parquet", "prompt", "data_source", "reward_model")
    run = doctor(
        *(f"vars.dir={tmp_path.parent}", f"vars.task={tmp_path.name}"),
        *(f"actor_rollout_ref.model.path={tmp_path}", f"vars.ckpt_dir={tmp_path}"),
        f"data.val_files={tmp_path / 'absent.parquet'}",
        VERL_PLATFORM="cpu",
    )
    lines = run.stdout.splitlines()
    found = {line[6:21].strip(): line[:4].strip() for line in lines if line[:4].strip() in (OK, WARN, FAIL)}
    # Other programs may have taken the memory.
    assert found.pop("memory") in (OK, FAIL)
    assert found.pop("shared memory") in (OK, WARN, FAIL)
    subjects = [
        "Python",
        "verl",
        "plugin",
        "configuration",
        "vllm",
        "attention",
        "model",
        "checkpoints",
        "sockets",
        "open files",
        "sandbox",
    ]
    assert found == dict.fromkeys([*subjects, "data train"], OK) | {"data val": FAIL}, run.stdout + run.stderr
    assert re.fullmatch("Not ready: [123] failed, [01] to look at, of 15 checks.", lines[-1])
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
