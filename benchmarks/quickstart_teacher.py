"""Does the self-teacher know better than the student? Prints a table: accuracy of the untrained model's own replies.

Distillation pulls the student towards what the teacher would write, so a teacher that does not answer better is no
help. Rows: a demonstration, and feedback on a failed reply, in SDPO's default templates and in the quickstart's.
`student` is the accuracy at the same questions without help.

    python -m benchmarks.quickstart_teacher outputs/quickstart/model [--tasks 32] [--samples 96]

Takes a few minutes on two cores; transformers generates, verl does not train.
"""

import argparse
import random
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.quickstart.environment import Task, find_fault, make_tasks
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.reprompt import Message, Rollout, build_teacher_prompts

CONFIG = Path(__file__).parents[1] / "experiments" / "quickstart" / "config"
GROUP = 8
BATCH = 32


class Sampler:
    """Samples one reply per chat as the quickstart's rollout does."""

    def __init__(self, model: Path):
        task = OmegaConf.load(CONFIG / "quickstart_task.yaml")
        self.temperature = task.actor_rollout_ref.rollout.temperature
        self.max_new_tokens = task.data.max_response_length
        self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    def __call__(self, chats: list[list[Message]]) -> list[str]:
        replies = []
        for start in range(0, len(chats), BATCH):
            inputs = self.tokenizer.apply_chat_template(
                chats[start : start + BATCH],
                add_generation_prompt=True,
                padding=True,
                return_dict=True,
                return_tensors="pt",
            )
            tokens = self.model.generate(
                **inputs, do_sample=True, temperature=self.temperature, top_k=0, max_new_tokens=self.max_new_tokens
            )
            replies += self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return replies


def grade(task: Task, attempt: int, reply: str) -> Rollout:
    feedback = find_fault("tool-json", reply, task.call)
    return Rollout(
        uid=task.prompt,
        messages=[{"role": "user", "content": task.prompt}],
        response=reply,
        score=0.0 if feedback else 1.0,
        feedback=feedback,
        attempt=attempt,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--samples", type=int, default=96, help="the teacher's replies for each row")
    args = parser.parse_args()
    torch.manual_seed(0)
    sample = Sampler(args.model)

    tasks = {task.prompt: task for task in make_tasks("tool-json", "train", args.tasks, seed=0)}
    asked = [task for task in tasks.values() for _ in range(GROUP)]
    answers = sample([[{"role": "user", "content": task.prompt}] for task in asked])
    rollouts = [
        grade(task, index % GROUP, reply) for index, (task, reply) in enumerate(zip(asked, answers, strict=True))
    ]
    alone = {prompt: sum(rollout.score for rollout in rollouts if rollout.uid == prompt) / GROUP for prompt in tasks}

    changes = OmegaConf.load(CONFIG / "quickstart_sdpo.yaml").actor_rollout_ref.actor.self_distillation
    print("| the teacher reads | replies | student | teacher | teacher without any object |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for templates, block in (("default", {}), ("quickstart", changes)):
        # A threshold that no reply reaches makes all failed replies get feedback.
        for knowledge, threshold in (("demonstration", 1.0), ("feedback", 2.0)):
            shown = {"include_environment_feedback": True, "success_reward_threshold": threshold}
            settings = SelfDistillationConfig(**{**block, **shown})
            prompts = build_teacher_prompts(rollouts, settings.reprompt, settings.demonstrations, step=0)
            helped = [pair for pair in zip(rollouts, prompts, strict=True) if getattr(pair[1], knowledge) is not None]
            helped = random.Random(0).sample(helped, min(args.samples, len(helped)))
            replies = sample([prompt.messages for _, prompt in helped])
            pairs = list(zip([tasks[rollout.uid] for rollout, _ in helped], replies, strict=True))
            student = sum(alone[task.prompt] for task, _ in pairs) / len(pairs)
            teacher = sum(not find_fault("tool-json", reply, task.call) for task, reply in pairs) / len(pairs)
            objectless = sum("{" not in reply for _, reply in pairs) / len(pairs)
            print(
                f"| {knowledge}, {templates} templates | {len(pairs)} | {student:.2f} | {teacher:.2f} "
                f"| {objectless:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
