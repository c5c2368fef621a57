"""Memory and time of a whole update: SDPO beside verl's own GRPO, on the same rollouts, with verl's engines.

    python -m benchmarks.step MODEL [--dtype bf16] [--groups 4] [--prompt 130] [--teacher-prompt 200] [--json FILE]

MODEL is a folder with a model's weights and configuration (the quickstart builds outputs/quickstart/model). Rollouts
are random tokens; an update is all micro-batches forward and backward and the optimizer's step, one rank, without
gradient checkpointing on a machine without an accelerator. Variants: grpo (verl's engine and loss), sdpo-eager (logits
of all response positions at once), sdpo (chunked head), sdpo-shared (prompts computed once for their responses).
Each runs in a process of its own, one after another, `--repeats` times; the least counts.

Seven of a group's eight teacher prompts are the same: the eighth sample is their demonstration.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.memory import MIB, PeakMemory, resident_bytes
from benchmarks.process import measured

# `head` and `shared_prefix`.
SDPO = {"sdpo-eager": ("eager", "off"), "sdpo": ("chunked", "off"), "sdpo-shared": ("chunked", "on")}
VARIANTS = ("grpo", *SDPO)


@dataclass(frozen=True)
class Shape:
    groups: int
    rollouts: int
    prompt: int
    teacher_prompt: int
    response: int
    micro_batch: int
    """Rows of a micro-batch."""


def make_batch(shape: Shape, vocabulary: int):
    """A mini-batch in verl's no-padding layout, of random tokens."""
    import torch

    from verl.utils import tensordict_utils as tu

    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> torch.Tensor:
        return torch.randint(3, vocabulary, (length,), generator=generator)

    prompts, teacher_prompts, responses = [], [], []
    for _ in range(shape.groups):
        shared, shown, other = tokens(shape.prompt), tokens(shape.teacher_prompt), tokens(shape.teacher_prompt)
        prompts += [shared] * shape.rollouts
        teacher_prompts += [other] + [shown] * (shape.rollouts - 1)
        responses += [tokens(shape.response) for _ in range(shape.rollouts)]

    def jagged(rows) -> torch.Tensor:
        return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)

    rows = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    ones = [torch.ones_like(response) for response in responses]
    fields = {
        "input_ids": jagged(rows),
        "position_ids": jagged(torch.arange(len(row)) for row in rows),
        "prompts": jagged(prompts),
        "responses": jagged(responses),
        "response_mask": jagged(ones),
        "loss_mask": jagged(torch.cat([torch.zeros_like(p), o]) for p, o in zip(prompts, ones, strict=True)),
        "teacher_input_ids": jagged(torch.cat(pair) for pair in zip(teacher_prompts, responses, strict=True)),
        "teacher_weight": torch.ones(len(rows)),
        "reward_weight": torch.ones(len(rows)),
        "old_log_probs": jagged(torch.full((len(response),), -10.0) for response in responses),
        "advantages": jagged(torch.randn((), generator=generator).expand(len(response)) for response in responses),
    }
    settings = {
        "temperature": 1.0,
        "use_remove_padding": False,
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": shape.micro_batch,
        "global_batch_size": len(rows),
    }
    return tu.get_tensordict(fields, non_tensor_dict=settings)


def build_engine(model: str, model_type: str, dtype: str, forward_only: bool = False):
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine import EngineRegistry

    engine = EngineRegistry.new(
        model_type=model_type,
        backend="fsdp2",
        model_config=HFModelConfig(
            path=model,
            use_remove_padding=False,
            override_config={"attn_implementation": "sdpa"},
            enable_gradient_checkpointing=False,
            model_type=model_type,
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            forward_only=forward_only,
            mixed_precision={"param_dtype": dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            use_torch_compile=False,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-6, total_training_steps=100),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def make_grpo(model: str, dtype: str, actor: dict) -> tuple[Callable, float]:
    from verl.workers.config import FSDPActorConfig
    from verl.workers.utils.losses import ppo_loss

    engine = build_engine(model, "language_model", dtype)
    loss = functools.partial(ppo_loss, FSDPActorConfig(**actor))

    def update(batch) -> None:
        with engine.train_mode():
            engine.train_batch(batch, loss)

    return update, 0.0


def make_sdpo(model: str, dtype: str, actor: dict, head: str, shared_prefix: str) -> tuple[Callable, float]:
    """The update, and the bytes of the teacher's weights."""
    from verl.sdpo.config import SelfDistillationConfig
    from verl.sdpo.engine.actor_config import SelfDistillationActorConfig
    from verl.sdpo.engine.distillation_engine import MODEL_TYPE
    from verl.sdpo.engine.layout import shares_prefixes
    from verl.sdpo.engine.weights import make_teacher

    config = SelfDistillationConfig(head=head)
    student = build_engine(model, MODEL_TYPE, dtype)
    before = resident_bytes()
    reference = build_engine(model, MODEL_TYPE, dtype, forward_only=True)
    weights = resident_bytes() - before
    for engine in (student, reference):
        engine.shares_prefixes = shares_prefixes(shared_prefix, engine.module)
    teacher = make_teacher(config, reference, student)
    student.set_up_distillation(SelfDistillationActorConfig(**actor, self_distillation=config), teacher)

    def update(batch) -> None:
        with student.train_mode():
            student.train_batch(batch, None)
        teacher.after_training_step()

    return update, weights


def measure(variant: str, model: str, dtype: str, shape: Shape, rendezvous: str, connection) -> None:
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    import torch

    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    actor = {"strategy": "fsdp2", "rollout_n": shape.rollouts, "ppo_micro_batch_size_per_gpu": shape.micro_batch}
    if variant in SDPO:
        update, teacher_bytes = make_sdpo(model, dtype, actor, *SDPO[variant])
    else:
        update, teacher_bytes = make_grpo(model, dtype, actor)
    batch = make_batch(shape, json.loads(Path(model, "config.json").read_text())["vocab_size"])
    # Adam's states and the gradients are made by the first.
    update(batch)
    with PeakMemory() as memory:
        start = time.perf_counter()
        update(batch)
        seconds = time.perf_counter() - start
    connection.send((seconds, memory.bytes / MIB, teacher_bytes / MIB))


def table(rows: list[dict]) -> str:
    base = next((row["seconds"] for row in rows if row["variant"] == "grpo"), float("nan"))
    lines = ["| variant | seconds | of GRPO's | peak above weights, MiB | teacher's weights, MiB |"]
    lines.append("|---|---:|---:|---:|---:|")
    for row in rows:
        cells = (row["seconds"], row["seconds"] / base, row["peak_mib"], row["teacher_mib"])
        lines.append("| {} | {:.2f} | {:.2f} | {:.0f} | {:.0f} |".format(row["variant"], *cells))
    return "\n".join(lines)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="of the computation")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=130)
    parser.add_argument("--teacher-prompt", type=int, default=200)
    parser.add_argument("--response", type=int, default=40)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    shape = Shape(args.groups, args.rollouts, args.prompt, args.teacher_prompt, args.response, args.micro_batch)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, list[tuple]] = {variant: [] for variant in args.variants}
        # In turns, so that whatever else the machine does falls on all of them.
        for _ in range(args.repeats):
            for variant in args.variants:
                rendezvous = str(Path(folder) / f"{variant}-{time.time_ns()}")
                result = measured(measure, variant, args.model, args.dtype, shape, rendezvous, start="spawn")
                results[variant].append(result)
    for variant, found in results.items():
        seconds, peaks, teachers = zip(*found, strict=True)
        numbers = {"seconds": min(seconds), "peak_mib": min(peaks), "teacher_mib": min(teachers)}
        rows.append({"variant": variant, "dtype": args.dtype, **numbers})
    print(f"{shape}, {args.dtype}, {os.cpu_count()} cores\n\n{table(rows)}")
    if args.json:
        args.json.write_text(json.dumps([asdict(shape) | row for row in rows], indent=1))


if __name__ == "__main__":
    main()
