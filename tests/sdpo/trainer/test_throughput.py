"""Metrics of speed."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config

from verl.sdpo.teacher_rows import TEACHER_TOKENS
from verl.sdpo.trainer.throughput import Throughput


def test_flops_count_what_was_computed_by_hand(two_ranks):
    """verl's estimate of a row of n tokens: 6 x 512 n + 72 n^2, where 512 = 3 layers x (MLP 3 x 4 x 8 + attention
    4 x (4 + 2 + 2 + 4)) + embedding and head 2 x 10 x 4, and 72 = 6 x 2 x 2 x 3.

    Rank 0: two student rows of 5 tokens that share a prompt of 3. Rank 1: one of 4. One teacher row of 8, twice.
    """
    student = 6 * 512 * (5 + 5 - 3 + 4) + 72 * (25 + 25 - 9 + 16)
    teacher = 2 * (6 * 512 * 8 + 72 * 64) / 3
    assert two_ranks.run(check_flops) == [pytest.approx(student + teacher)] * 2


def check_flops(engines):
    from verl.sdpo.engine.flops import ComputedFlops

    config = Qwen2Config(
        hidden_size=4,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=10,
    )
    computed = [[([5, 5], [3]), ([8], [])], [([4], []), ([], [])]][torch.distributed.get_rank()]
    engine = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config),
        computed=computed,
        teacher=SimpleNamespace(passes=2),
        get_data_parallel_group=lambda: torch.distributed.group.WORLD,
    )
    # verl hands out TFLOP/s.
    return ComputedFlops(engine).estimate_flops([99], delta_time=1e-12)[0]


def test_throughput_counts_the_teachers_tokens():
    metrics = {TEACHER_TOKENS: 100, "perf/total_num_tokens": 300, "perf/throughput": 30.0}
    Throughput(None).after_step(1, None, metrics)
    assert metrics == {TEACHER_TOKENS: 100, "perf/total_num_tokens": 400, "perf/throughput": 40.0}


def test_a_step_without_an_update_has_verls_throughput():
    metrics = {"perf/total_num_tokens": 300, "perf/throughput": 30.0}
    Throughput(None).after_step(1, None, metrics)
    assert metrics == {"perf/total_num_tokens": 300, "perf/throughput": 30.0}
