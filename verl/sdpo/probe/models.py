"""Models of a probe: sampling by vLLM or transformers, and token scores by transformers."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig

from verl.sdpo import on_cpu
from verl.sdpo.engine.lm_head import head_replaced, refuse_changed_logits
from verl.sdpo.head import Logits, Projection, comparison_chunk_tokens, split_tokens
from verl.sdpo.objective import divergence
from verl.sdpo.probe.measures import TokenScores


def load_model(config: DictConfig) -> Any:
    """Load the model by transformers in bfloat16, on the accelerator if there is one."""
    from transformers import AutoModelForCausalLM

    model = config.actor_rollout_ref.model
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model.path, dtype=torch.bfloat16, trust_remote_code=model.trust_remote_code
    )
    return loaded.to("cpu" if on_cpu() else "cuda").eval()


class Sampler(Protocol):
    """Sampling of answers with the parameters of the configuration's rollouts."""

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return one answer's tokens per prompt, with the token that ends it."""

    def close(self) -> None:
        """Free the memory."""


class VllmSampler:
    """Sampling by vLLM."""

    def __init__(self, config: DictConfig, max_prompt: int):
        import vllm

        rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
        self.max_tokens = config.data.max_response_length
        length = max_prompt + self.max_tokens
        # The settings of the platform `cpu`, see docs/verl-notes.md.
        options: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False} if on_cpu() else {}
        self._llm: Any = vllm.LLM(
            model.path,
            max_model_len=length,
            max_num_batched_tokens=max(length, rollout.max_num_batched_tokens),
            dtype=rollout.dtype,
            seed=rollout.seed,
            tensor_parallel_size=rollout.tensor_model_parallel_size,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            trust_remote_code=model.trust_remote_code,
            **options,
        )
        self._params = vllm.SamplingParams(
            temperature=rollout.temperature, top_p=rollout.top_p, top_k=rollout.top_k, max_tokens=self.max_tokens
        )

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [list(one.outputs[0].token_ids) for one in self._llm.generate(inputs, self._params, use_tqdm=False)]

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


class TransformersSampler:
    """Sampling without vLLM: slower, in batches of prompts of similar length."""

    BATCH = 32

    def __init__(self, config: DictConfig, tokenizer: Any):
        rollout = config.actor_rollout_ref.rollout
        torch.manual_seed(rollout.seed)
        self.model, self.tokenizer = load_model(config), tokenizer
        self.options = {
            "do_sample": True,
            "temperature": rollout.temperature,
            "top_p": rollout.top_p,
            # No top-k is 0 here and -1 in vLLM.
            "top_k": max(rollout.top_k, 0),
            "max_new_tokens": config.data.max_response_length,
            "pad_token_id": tokenizer.pad_token_id,
        }

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        for start in range(0, len(prompts), self.BATCH):
            places = by_length[start : start + self.BATCH]
            rows = {"input_ids": [prompts[place] for place in places]}
            inputs = self.tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(self.model.device)
            tokens = self.model.generate(**inputs, **self.options)[:, inputs["input_ids"].shape[1] :]
            for place, row in zip(places, tokens.tolist(), strict=True):
                answers[place] = self._until_end(row)
        return answers

    def _until_end(self, tokens: list[int]) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        return tokens[: end + 1]

    def close(self) -> None:
        del self.model


class Scorer:
    """Token scores of a response: student and teacher are the same weights under two prompts.

    Raises:
        ValueError: when the model changes its logits after the language-model head.
    """

    def __init__(self, config: DictConfig, alpha: float, topk: int | None):
        self.model = load_model(config)
        refuse_changed_logits(self.model.config)
        self.temperature = config.actor_rollout_ref.rollout.temperature
        self.alpha, self.topk = alpha, topk

    @torch.no_grad()
    def __call__(
        self, student_prompt: Sequence[int], teacher_prompt: Sequence[int], response: Sequence[int]
    ) -> TokenScores:
        """Score chunks of tokens: two distributions over a long response would be larger than the model."""
        student, teacher = self.logits(student_prompt, response), self.logits(teacher_prompt, response)
        size = comparison_chunk_tokens(self.model.device.type)
        parts = [vars(self.compare(student(part), teacher(part))) for part in split_tokens(len(response), size)]
        return TokenScores(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def logits(self, prompt: Sequence[int], response: Sequence[int]) -> Logits:
        """Return the logits of the response's tokens."""
        ids = torch.tensor([[*prompt, *response]], device=self.model.device)
        # The position before a token predicts it.
        positions = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=ids.device)
        with head_replaced(self.model, positions, lambda hidden, head: Projection(hidden, head.weight, head.bias)):
            return self.model(ids, use_cache=False).logits

    def compare(self, student_logits_CV: torch.Tensor, teacher_logits_CV: torch.Tensor) -> TokenScores:
        student, teacher = (
            torch.log_softmax(logits / self.temperature, dim=-1) for logits in (student_logits_CV, teacher_logits_CV)
        )
        teachers_token = teacher.argmax(-1, keepdim=True)
        log_probability = student.gather(-1, teachers_token)
        # Number of tokens that are likelier to the student.
        rank = (student > log_probability).sum(-1)
        scores = TokenScores(
            divergence=divergence(student, teacher, self.alpha),
            differs=(student.argmax(-1, keepdim=True) != teachers_token)[:, 0],
            student_probability=log_probability[:, 0].exp(),
            in_topk=rank < (self.topk or student.shape[-1]),
        )
        return TokenScores(**{name: np.asarray(value.cpu()) for name, value in vars(scores).items()})
