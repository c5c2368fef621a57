"""Stored rollouts of the quickstart: ten steps of 4 questions with 2 attempts each, as token ids."""

from pathlib import Path

import numpy as np
import torch

from tests.reference.trainer import Attempt

FILE = Path(__file__).with_name("stream.npz")


def read() -> tuple[list[list[Attempt]], int]:
    """The attempts of every step, and the size of the vocabulary."""
    with np.load(FILE) as file:
        data = dict(file)

    def sequences(name: str) -> list[torch.Tensor]:
        return list(torch.from_numpy(data[name].astype(np.int64)).split(data[f"{name}_lens"].tolist()))

    prompts, teacher_prompts, responses = (sequences(name) for name in ("prompt", "teacher_prompt", "response"))
    steps: dict[int, list[Attempt]] = {}
    for step, prompt, teacher_prompt, response, advantage in zip(
        data["step"].tolist(), prompts, teacher_prompts, responses, data["advantage"].tolist(), strict=True
    ):
        attempt = Attempt(prompt, teacher_prompt if len(teacher_prompt) else None, response, advantage)
        steps.setdefault(step, []).append(attempt)
    return list(steps.values()), int(data["vocab_size"])
