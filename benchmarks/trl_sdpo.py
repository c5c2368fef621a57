"""TRL's SDPO trainer on a task of the quickstart, with the settings of experiments/quickstart/config.

Run by benchmarks/quickstart.py with the Python of an environment that has TRL, which verl's must not have. Generation
is transformers', TRL's default. Writes a line per step to METRICS: step, train (accuracy of the step's 32 samples),
seconds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from experiments.quickstart.environment import compute_score

# quickstart_task.yaml and quickstart_sdpo.yaml; where these say nothing, the defaults of verl and of verl/sdpo.
GROUPS, ROLLOUTS, MICRO_BATCH = 4, 8, 8
SETTINGS = {
    "num_generations": ROLLOUTS,
    "per_device_train_batch_size": MICRO_BATCH,
    "gradient_accumulation_steps": GROUPS * ROLLOUTS // MICRO_BATCH,
    "max_prompt_length": 128,
    "max_completion_length": 40,
    "temperature": 0.6,
    "learning_rate": 4e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "distillation_mode": "topk_logits",
    "distillation_topk": 100,
    "distillation_add_tail": True,
    "distillation_alpha": 0.5,
    "distillation_is_clip": 2.0,
    "teacher_model_kind": "ema",
    "teacher_update_rate": 0.05,
    "max_reprompt_len": 768,
    "reprompt_template": "{prompt}{solution}{feedback}{prompt}",
    "solution_template": "\n\n{successful_previous_attempt}\n\n",
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


class Clock(TrainerCallback):
    """Writes a line per step; the reward function leaves the step's scores here."""

    def __init__(self, metrics: Path):
        self.metrics = metrics
        self.scores: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        train = sum(self.scores) / len(self.scores)
        record = {"step": state.global_step, "train": train, "seconds": now - self.start}
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)
        self.scores, self.start = [], now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path, help="parquet file")
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    clock = Clock(args.metrics)

    def reward(completions, data_source, ground_truth, **_others) -> list[float]:
        replies = [completion[0]["content"] for completion in completions]
        rows = zip(data_source, replies, ground_truth, strict=True)
        scores = [compute_score(source, reply, truth)["score"] for source, reply, truth in rows]
        clock.scores += scores
        return scores

    rows = [
        {
            "prompt": row["prompt"],
            "data_source": row["data_source"],
            "ground_truth": row["reward_model"]["ground_truth"],
        }
        for row in pq.read_table(args.data).to_pylist()
    ]
    # As experiments/quickstart/train.py: bfloat16 where the machine computes it.
    capabilities = torch.cpu.get_capabilities()
    bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    with tempfile.TemporaryDirectory() as folder:
        config = SDPOConfig(folder, **SETTINGS, max_steps=args.steps, seed=args.seed, bf16=bf16)
        SDPOTrainer(
            args.model,
            reward,
            config,
            Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(args.model, padding_side="left"),
            callbacks=[clock],
        ).train()


if __name__ == "__main__":
    main()
