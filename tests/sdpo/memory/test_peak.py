"""The doctor's estimate of an update against what torch.profiler counts, with verl's engines on the CPU."""

import dataclasses
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, Qwen3Config, Qwen3ForCausalLM

from tests.e2e.tiny import build_model
from tests.gpu.checks import doctors_update, make_rows

MINI_BATCH = 4


def build(folder: Path, config: PreTrainedConfig) -> str:
    kind = Qwen3ForCausalLM if isinstance(config, Qwen3Config) else LlamaForCausalLM
    kind(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(build_model(folder / "tokenizer")).save_pretrained(folder)
    return str(folder)


def bytes_of(tensors) -> int:
    """Of the storages, each once."""
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in local)}.values())


def peak_while(action: Callable[[], object]) -> int:
    """The most bytes that were allocated and not yet freed, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def check_peak(
    engines: types.ModuleType, path: str, response: int, vocabulary: int, rows: int, settings: dict, options: dict
) -> int:
    """The measured peak of a mini-batch's update, models and optimizer included."""
    pair = engines.build_pair(
        path,
        strategy="fsdp2",
        settings={"distillation_topk": 20, **settings},
        use_no_sync_for_gradient_accumulation=False,
        **options,
    )
    samples = make_rows(engines, MINI_BATCH, response, vocabulary)
    # All answer one question, with teacher prompts of their own.
    samples = [dataclasses.replace(sample, prompt=samples[0].prompt) for sample in samples]
    models = bytes_of([*pair.student.module.parameters(), *pair.reference.module.parameters()])

    def two_updates() -> None:
        # The first one makes Adam's moments.
        for _ in range(2):
            engines.train(pair.student, samples, micro_batch_size_per_gpu=rows)

    return models + peak_while(two_updates)


# What dominates: weights, activations, the head.
QWEN = Qwen3Config(
    **{"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 2048},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": False},
)
LLAMA = LlamaConfig(
    **{"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 512},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
)
WIDE = Qwen3Config(
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32_768},
    **{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True},
)


@dataclasses.dataclass(frozen=True)
class Shape:
    model: PreTrainedConfig
    response: int
    dominates: Callable
    rows: int = 1
    compute: str = "bf16"
    checkpointing: bool = True
    block: dict = dataclasses.field(default_factory=dict)


SHAPES = {
    "weights": Shape(QWEN, 16, lambda update: update.state + update.teacher),
    "activations": Shape(LLAMA, 384, lambda update: update.passes.activations, 2, "fp32", checkpointing=False),
    "a layer's backward pass": Shape(LLAMA, 640, lambda update: update.passes.worst.bytes, 2),
    "head": Shape(WIDE, 192, lambda update: update.passes.worst.bytes),
    "eager head": Shape(WIDE, 192, lambda update: update.passes.worst.bytes, block={"head": "eager"}),
    "eager head, whole vocabulary": Shape(
        WIDE, 48, lambda update: update.passes.worst.bytes, block={"head": "eager", "distillation_topk": "null"}
    ),
    "whole vocabulary": Shape(WIDE, 192, lambda update: update.passes.worst.bytes, block={"distillation_topk": "null"}),
    "mixed teacher": Shape(
        WIDE, 192, lambda update: update.passes.worst.bytes, block={"teacher_regularization": "trust-region"}
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_estimate_is_what_the_profiler_counts(groups, tmp_path, record_property, name):
    shape = SHAPES[name]
    path = build(tmp_path, shape.model)
    overrides = {
        "machine": "cpu",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": shape.rows,
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": shape.compute,
        "actor_rollout_ref.model.enable_gradient_checkpointing": shape.checkpointing,
    }
    update = doctors_update(
        path, shape.response, *(f"{key}={value}" for key, value in overrides.items()), **shape.block
    )
    assert shape.dominates(update) > update.peak / 2
    settings = {key: None if value == "null" else value for key, value in shape.block.items()}
    (measured,) = groups[1].run(
        check_peak,
        path=path,
        response=shape.response,
        vocabulary=shape.model.vocab_size,
        rows=shape.rows,
        settings=settings,
        options={"compute": shape.compute, "gradient_checkpointing": shape.checkpointing},
    )
    record_property("estimate of measured", update.peak / measured)
    assert update.peak == pytest.approx(measured, rel=0.15), update
