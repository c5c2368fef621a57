"""Where the teacher's engine leaves its weights. That they are used from there: test_teacher.py"""

import logging
from types import SimpleNamespace

import pytest
import torch

from verl.sdpo.engine import placement, worker
from verl.sdpo.engine.placement import PlacedEngine
from verl.sdpo.memory.estimate import GIB, Place

TREE = object()  # what the worker has of the configuration


@pytest.fixture
def on_a_gpu(monkeypatch):
    """`answer(place, rank=0)`: what `teacher_stays` says on the first of two ranks, whose GPUs have 80 and 40 GiB."""
    asked = []

    def answer(place, rank=0):
        monkeypatch.setattr(placement, "place_teacher", lambda *args: asked.append(args) or place)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        return placement.teacher_stays(TREE, "module")

    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    device = SimpleNamespace(mem_get_info=lambda: (1 * GIB, 80 * GIB))
    monkeypatch.setattr(placement, "get_torch_device", lambda: device)
    monkeypatch.setattr(placement, "get_device_id", lambda: "cpu")
    monkeypatch.setattr(placement, "measure", lambda module: f"sizes of {module}")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def with_a_smaller_gpu(tensor, op):
        assert op is torch.distributed.ReduceOp.MIN
        tensor.clamp_(max=40 * GIB)

    monkeypatch.setattr(torch.distributed, "all_reduce", with_a_smaller_gpu)
    return SimpleNamespace(answer=answer, asked=asked)


@pytest.mark.parametrize("place", [Place(True, "fits"), Place(False, "too large")])
def test_the_doctor_decides_for_the_smallest_gpu_and_one_rank_says_it(on_a_gpu, caplog, place):
    with caplog.at_level(logging.INFO):
        assert [on_a_gpu.answer(place, rank) for rank in (0, 1)] == [place.on_gpu] * 2
    config = {"actor_rollout_ref": TREE, "trainer": {"device": "cuda", "nnodes": 1, "n_gpus_per_node": 2}}
    assert on_a_gpu.asked == [(config, "sizes of module", 40 * GIB)] * 2
    assert [record.message for record in caplog.records] == [f"The teacher: {place}."]


def test_another_ref_model_is_offloaded_as_verl_does(on_a_gpu, caplog):
    with caplog.at_level(logging.INFO):
        assert on_a_gpu.answer(None) is False
    assert not caplog.records


def test_without_an_accelerator_nothing_is_placed(monkeypatch, caplog):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with caplog.at_level(logging.INFO):
        assert placement.teacher_stays(TREE, "module") is True
    assert "no accelerator: teacher_placement has no effect" in caplog.text


def test_the_worker_tells_the_engine_of_its_ref_model(monkeypatch):
    class Verls:
        def __init__(self, config):
            self.engine = SimpleNamespace(config=config)

    monkeypatch.setattr(worker, "TrainingWorker", Verls)
    monkeypatch.setattr(worker, "teacher_stays", lambda config, module: (config, module))
    ours = object.__new__(worker.SelfDistillationWorker)
    ours.config = TREE
    engine = ours.ref_worker_cls(config="ref").engine
    assert engine.config == "ref"
    assert engine.stays("module") == (TREE, "module")


@pytest.mark.parametrize("forward_only", [True, False])
@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_verl_is_told_to_offload_while_it_wraps_the_model(monkeypatch, forward_only, stays, fails):
    seen = []

    def build_fsdp_module(self, module):
        seen.append(self.engine_config.forward_only)
        return module / (0 if fails else 1)

    monkeypatch.setattr(PlacedEngine.__base__, "_build_module", lambda self: 3)
    monkeypatch.setattr(PlacedEngine.__base__, "_build_fsdp_module", build_fsdp_module)
    engine = object.__new__(PlacedEngine)
    engine.engine_config = SimpleNamespace(forward_only=forward_only)
    engine.stays = lambda module: stays
    module = engine._build_module()
    if fails:
        with pytest.raises(ZeroDivisionError):
            engine._build_fsdp_module(module)
    else:
        assert engine._build_fsdp_module(module) == 3
    assert seen == [forward_only and not stays]
    assert engine.engine_config.forward_only is forward_only


@pytest.mark.parametrize("platform", ["cpu", ""])
def test_verls_way_wherever_there_is_an_accelerator(monkeypatch, platform):
    monkeypatch.setenv("VERL_PLATFORM", platform)
    assert PlacedEngine.stays("module") is (platform == "cpu")
