"""Sources of responses: vLLM in this process, or a server that speaks OpenAI's protocol."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

from baseline_multiturn.search import Chat, Generation


@dataclass(frozen=True)
class Sampling:
    max_response: int
    """Longest response, in tokens."""
    temperature: float = 1.0
    top_p: float = 1.0
    chat_template_kwargs: dict[str, Any] = field(default_factory=lambda: {"enable_thinking": False})


class ChatTokenizer:
    """The model's own chat template."""

    def __init__(self, name: str, chat_template_kwargs: dict[str, Any]):
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._options = {**chat_template_kwargs, "add_generation_prompt": True, "return_dict": False}

    def encode(self, chat: Chat) -> list[int]:
        return cast(list[int], self._tokenizer.apply_chat_template(chat, **self._options))


class VllmEngine:
    """vLLM in this process.

    Args:
        options: further arguments of `vllm.LLM`.
    """

    def __init__(self, model: str, tokenizer: ChatTokenizer, sampling: Sampling, *, max_context: int, **options: Any):
        import vllm

        from verl.sdpo import on_cpu

        self._tokenizer, self._sampling = tokenizer, sampling
        length = max_context + sampling.max_response
        if on_cpu():
            # See docs/verl-notes.md: a seeded request whose prompt is read in chunks fails on vLLM's CPU build.
            options |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": length}
        self._llm: Any = vllm.LLM(model, max_model_len=length, **options)

    def count_tokens(self, chat: Chat) -> int:
        return len(self._tokenizer.encode(chat))

    def generate(self, chat: Chat, seeds: Sequence[int]) -> list[Generation]:
        import vllm

        prompt = {"prompt_token_ids": self._tokenizer.encode(chat)}
        params = [
            vllm.SamplingParams(
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                max_tokens=self._sampling.max_response,
                seed=seed,
            )
            for seed in seeds
        ]
        outputs = self._llm.generate([prompt] * len(seeds), params, use_tqdm=False)
        completions = [output.outputs[0] for output in outputs]
        return [Generation(one.text, len(one.token_ids), one.finish_reason == "length") for one in completions]


class ServerEngine:
    """A server that speaks OpenAI's protocol; its key is taken from OPENAI_API_KEY.

    Prompts are counted here, with the tokenizer of the model that the server serves.
    """

    def __init__(self, url: str, model: str, tokenizer: ChatTokenizer, sampling: Sampling):
        import os

        import openai

        self._client: Any = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
        self._model, self._tokenizer, self._sampling = model, tokenizer, sampling

    def count_tokens(self, chat: Chat) -> int:
        return len(self._tokenizer.encode(chat))

    def generate(self, chat: Chat, seeds: Sequence[int]) -> list[Generation]:
        with ThreadPoolExecutor(max_workers=len(seeds)) as pool:
            return list(pool.map(lambda seed: self._generate(chat, seed), seeds))

    def _generate(self, chat: Chat, seed: int) -> Generation:
        extra = self._sampling.chat_template_kwargs
        answer = self._client.chat.completions.create(
            model=self._model,
            messages=chat,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_response,
            seed=seed,
            extra_body={"chat_template_kwargs": extra} if extra else None,
        )
        choice, text = answer.choices[0], answer.choices[0].message.content or ""
        return Generation(text, answer.usage.completion_tokens, choice.finish_reason == "length")
