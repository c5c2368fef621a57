"""A tiny random model, tokenizer, data and reward, built on the spot."""

import json
import random
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
REWARD = '''
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """Succeeds on about half of all random responses, and says why not."""
    success = sum(map(ord, solution_str)) % 2 == 0
    feedback = "" if success else f"The code points of your answer {solution_str[:5]!r} add up to an odd number."
    return {"score": float(success), "acc": float(success), "feedback": feedback}
'''


def build_model(folder: Path, **config) -> Path:
    """A Llama of about 100k parameters over bytes, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=["<|start|>"]
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            pad_token_id=fast.pad_token_id,
            bos_token_id=fast.eos_token_id,
            eos_token_id=fast.eos_token_id,
            **config,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def build_data(folder: Path, *, train: int = 16, test: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for split, count in (("train", train), ("test", test)):
        rows = [
            {
                "data_source": "tiny",
                "prompt": [{"role": "user", "content": f"Say {rng.randrange(1000)}."}],
                "ability": "tiny",
                "reward_model": {"style": "tiny", "ground_truth": ""},
                "extra_info": {"split": split, "index": str(i)},
            }
            for i in range(count)
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    (folder / "reward.py").write_text(REWARD)
    return folder


def read_metrics(path: Path) -> list[dict]:
    """The records that verl's `file` logger wrote: one per step."""
    return [json.loads(line) for line in path.read_text().splitlines()]
