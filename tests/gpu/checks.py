"""What only a GPU can answer, as functions that also run without one; each returns what it measured.

They run on a rank (tests/sdpo/distributed.py): `engines` is the module tests.sdpo.engines.
"""

import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from verl.sdpo.checks import BLOCK
from verl.sdpo.head import ChunkedHead, EagerHead, Support
from verl.sdpo.memory.estimate import GIB, estimate
from verl.sdpo.memory.model_size import read_model
from verl.sdpo.memory.peak import Update
from verl.utils.device import get_device_id, get_torch_device

# Of Qwen3, by parameters: hidden size, layers, query heads, their size, width of the feed-forward layers.
SIZES = {
    "tiny": (64, 2, 2, 32, 128),
    "0.6B": (1024, 28, 16, 128, 3072),
    "4B": (2560, 36, 32, 128, 9728),
}
VOCABULARY = {"tiny": 1000, "0.6B": 151_936, "4B": 151_936}


def build_random(folder: str, size: str, tokenizer: str) -> None:
    """Write a Qwen3 of the size with random weights in bf16 and a tokenizer."""
    hidden, layers, heads, head_dim, width = SIZES[size]
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = AutoConfig.for_model(
        "qwen3",
        **shape,
        **{"intermediate_size": width, "num_key_value_heads": min(8, heads), "head_dim": head_dim},
        **{"vocab_size": VOCABULARY[size], "tie_word_embeddings": True, "max_position_embeddings": 4096},
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """Of one call, the fastest of some, after one that does not count."""
    action()
    taken = []
    for _ in range(repeats):
        get_torch_device().synchronize()
        start = time.perf_counter()
        action()
        get_torch_device().synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def check_heads(_engines, tokens: int, vocabulary: int, width: int) -> dict[str, float]:
    """The chunked head against the eager one in bf16: same statistics and gradients, and what it allocates."""
    device = get_device_id()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(device, torch.bfloat16)
    weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
    sampled = torch.randint(vocabulary, (tokens,), generator=generator).to(device)
    measured, found, topk = {}, {}, None
    for kind in (EagerHead, ChunkedHead):
        output = torch.nn.Linear(width, vocabulary, bias=False, device="meta").to_empty(device="cpu")
        output.weight.data.copy_(weight)
        output = output.to(device, torch.bfloat16)
        states = hidden.clone().requires_grad_()
        get_torch_device().reset_peak_memory_stats()
        before = get_torch_device().max_memory_allocated()
        statistics = kind(sampled, Support(20), temperature=0.7, support_indices=topk)(states, output)
        (statistics.log_probs.sum() + statistics.support_log_probs.exp().sum()).backward()
        measured[f"{kind.__name__} GiB"] = (get_torch_device().max_memory_allocated() - before) / GIB
        found[kind] = [statistics.log_probs.detach(), states.grad, output.weight.grad]
        topk = statistics.support_indices
    for eager, chunked in zip(found[EagerHead], found[ChunkedHead], strict=True):
        # Logits of the eager head are rounded to bf16: 3 significant digits.
        assert (eager.float() - chunked.float()).norm() < 2e-2 * eager.float().norm()
    return measured


# What `make_rows` makes, in tokens.
PROMPT, TEACHER_PROMPT = 32, 64


def doctors_update(path: str, response: int, *overrides: str, **settings) -> Update:
    """The doctor's estimate for verl's engines on one device, with `make_rows` and 20 compared tokens.

    settings: keys of the block.
    """
    sizes = {
        "data.max_prompt_length": PROMPT,
        "data.max_response_length": response,
        "trainer.n_gpus_per_node": 1,
        "++actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.model.use_remove_padding": False,
        **{f"{BLOCK}.{key}": value for key, value in {"distillation_topk": 20, **settings}.items()},
        f"{BLOCK}.max_reprompt_len": TEACHER_PROMPT,
    }
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sdpo", [*(f"{key}={value}" for key, value in sizes.items()), *overrides])
    # Without an accelerator verl's engines have no offload (verl/sdpo/cpu/cpu_engine.py).
    teacher_on_gpu = config.trainer.device == "cpu"
    return estimate(config, read_model(path, trust_remote_code=False), teacher_on_gpu=teacher_on_gpu).update


def check_step(engines, path: str, size: str, strategy: str, rows: int, length: int) -> dict[str, float]:
    """One optimizer step with and without a teacher; memory against the doctor's estimate."""
    samples = make_rows(engines, rows, length, VOCABULARY[size])
    measured = {}
    for kind in ("ema", "live"):
        settings = {"teacher_regularization": kind}
        # As verl's yaml, not as its dataclass.
        sharded = {"use_no_sync_for_gradient_accumulation": False}
        pair = engines.build_pair(path, strategy=strategy, compute="bf16", settings=settings, shift=0.0, **sharded)
        get_torch_device().reset_peak_memory_stats()
        taken = seconds(lambda pair=pair: engines.train(pair.student, samples, micro_batch_size_per_gpu=1))
        peak = get_torch_device().max_memory_allocated()
        strategies = [f"actor_rollout_ref.{role}.strategy={strategy}" for role in ("actor", "ref")]
        update = doctors_update(path, length, *strategies, **settings)
        measured[f"{kind}: s/step"] = taken
        measured[f"{kind}: peak GiB"] = peak / GIB
        measured[f"{kind}: doctor GiB"] = update.peak / GIB
        # Of a tiny model cuBLAS's own memory is the most; without an accelerator the process is what is measured.
        if size != "tiny":
            assert abs(update.peak - peak) < 0.15 * peak, update
        del pair
        get_torch_device().empty_cache()
    return measured


def make_rows(engines, count: int, length: int, vocabulary: int) -> list:
    """Samples with responses of `length` tokens, all with a target."""
    generator = torch.Generator().manual_seed(0)

    def tokens(number: int) -> torch.Tensor:
        return torch.randint(3, vocabulary, (number,), generator=generator)

    zeros = torch.zeros(length)
    ones = {"mask": torch.ones(length, dtype=torch.long), "target": True, "graded": True, "advantages": zeros}
    scores = {"old_log_probs": zeros - 5, "ref_log_prob": zeros - 5, "rollout_is_weights": zeros + 1}
    return [
        engines.Sample(
            prompt=tokens(PROMPT), teacher_prompt=tokens(TEACHER_PROMPT), response=tokens(length), **ones, **scores
        )
        for _ in range(count)
    ]
