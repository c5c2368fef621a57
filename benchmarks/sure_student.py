"""Which divergence has a gradient where the student is sure of the wrong token? Prints a table (docs/algorithm.md).

The student answers questions of the renamed key as their prompt says, with the old key; the teacher, the same model,
has read the error message. Compared is the one position at which the old key begins and the new one should: what both
give the new key's token, and the gradient of each divergence with respect to the student's logit of it.

    python -m benchmarks.sure_student outputs/quickstart/model [--tasks 32]

Takes half a minute on one core.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.quickstart.environment import Task, find_fault, make_tasks
from verl.sdpo.context import Message
from verl.sdpo.objective import divergence
from verl.sdpo.prompt import fill

CONFIG = Path(__file__).parents[1] / "experiments" / "quickstart" / "config"
NAME = "renamed-key"
OLD, NEW = "tool", "action"
KINDS = {"forward KL": 0.0, "JSD": 0.5, "reverse KL": 1.0}
TOPK = (20, 100, 500)


class Reader:
    """Next-token distributions of the untrained model at the old key, at the temperature of the rollout."""

    def __init__(self, model: Path):
        self.temperature = OmegaConf.load(CONFIG / "quickstart_task.yaml").actor_rollout_ref.rollout.temperature
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    @torch.no_grad()
    def __call__(self, prompt: str, reply: str) -> torch.Tensor:
        """Log-probabilities, (V,), of what follows the prompt and the reply up to its old key."""
        chat: list[Message] = [{"role": "user", "content": prompt}]
        tokens = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        tokens += self.tokenizer.encode(reply[: reply.index(OLD)])
        return (self.model(torch.tensor([tokens])).logits[0, -1].float() / self.temperature).log_softmax(-1)


def teacher_prompt(task: Task, reply: str) -> str:
    """Prompt that the recipe's teacher reads."""
    block = OmegaConf.load(CONFIG / f"{NAME}_sdpo.yaml").actor_rollout_ref.actor.self_distillation
    base = OmegaConf.load(CONFIG / "quickstart_sdpo.yaml").actor_rollout_ref.actor.self_distillation
    feedback = fill(block.feedback_template, feedback_raw=find_fault(NAME, reply, task.call))
    return fill(base.reprompt_template, prompt=task.prompt, feedback=feedback, **_EMPTY)


# The sections that a first failure does not have.
_EMPTY = dict.fromkeys(("solution", "attempt", "failed_attempts"), "")


def gradient(student_V: torch.Tensor, teacher_V: torch.Tensor, token: int, alpha: float) -> float:
    """Gradient of the divergence with respect to the student's logit of one token."""
    logits_V = student_V.clone().requires_grad_()
    (slope_V,) = torch.autograd.grad(divergence(logits_V.log_softmax(-1), teacher_V, alpha), logits_V)
    return slope_V[token].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tasks", type=int, default=32)
    args = parser.parse_args()
    read = Reader(args.model)
    new = read.tokenizer.encode(NEW)[0]
    found: dict[str, list[float]] = {}
    for task in make_tasks(NAME, "train", args.tasks, seed=0):
        call = dict(task.call)
        reply = json.dumps({OLD: call.pop(NEW), **call})
        student_V, teacher_V = read(task.prompt, reply), read(teacher_prompt(task, reply), reply)
        values = {"student's probability": student_V[new].exp().item()}
        values["teacher's probability"] = teacher_V[new].exp().item()
        values["rank in the student's"] = 1 + (student_V > student_V[new]).sum().item()
        values |= {f"gradient, {kind}": gradient(student_V, teacher_V, new, alpha) for kind, alpha in KINDS.items()}
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    print(f'| of the token "{NEW}", {args.tasks} questions | median | least | most |\n| --- | ---: | ---: | ---: |')
    for name, column in found.items():
        print(f"| {name} | {statistics.median(column):.2g} | {min(column):.2g} | {max(column):.2g} |")
    ranks = found["rank in the student's"]
    outside = ", ".join(f"{sum(rank > topk for rank in ranks)} of {len(ranks)} for k = {topk}" for topk in TOPK)
    print(f"\nOutside the student's top-k: {outside}.")


if __name__ == "__main__":
    main()
