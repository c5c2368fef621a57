"""What only a GPU can answer, as functions that also run without one; each returns what it measured.

They run on a rank (tests/sdpo/distributed.py): `engines` is the module tests.sdpo.engines.
"""

import time
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from verl.sdpo.doctor.capacity import BFLOAT16, FLOAT32, GIB
from verl.sdpo.head import ChunkedHead, EagerHead, Outcomes
from verl.utils.device import get_device_id, get_torch_device

# Of Qwen3, by parameters: hidden size, layers, query heads, their size, width of the feed-forward layers.
SIZES = {
    "tiny": (64, 2, 2, 32, 128),
    "0.6B": (1024, 28, 16, 128, 3072),
    "4B": (2560, 36, 32, 128, 9728),
}
VOCABULARY = {"tiny": 1000, "0.6B": 151_936, "4B": 151_936}


def build_random(folder: str, size: str, tokenizer: str) -> int:
    """Write a Qwen3 of the size with random weights in bf16 and a tokenizer. Returns the number of its parameters."""
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
    return model.num_parameters()


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
        statistics = kind(sampled, Outcomes(topk=20), temperature=0.7, topk_indices=topk)(states, output)
        (statistics.log_probs.sum() + statistics.topk_log_probs.exp().sum()).backward()
        measured[f"{kind.__name__} GiB"] = (get_torch_device().max_memory_allocated() - before) / GIB
        found[kind] = [statistics.log_probs.detach(), states.grad, output.weight.grad]
        topk = statistics.topk_indices
    for eager, chunked in zip(found[EagerHead], found[ChunkedHead], strict=True):
        # Logits of the eager head are rounded to bf16: 3 significant digits.
        assert (eager.float() - chunked.float()).norm() < 2e-2 * eager.float().norm()
    return measured


def check_step(
    engines, path: str, parameters: int, size: str, strategy: str, rows: int, length: int
) -> dict[str, float]:
    """One optimizer step with and without a teacher; memory against the doctor's count of weights and logits."""
    samples = make_rows(engines, rows, length, VOCABULARY[size])
    measured = {}
    for kind in ("ema", "live"):
        settings = {"teacher_regularization": kind}
        pair = engines.build_pair(path, strategy=strategy, compute="bf16", settings=settings, shift=0.0)
        get_torch_device().reset_peak_memory_stats()
        taken = seconds(lambda pair=pair: engines.train(pair.student, samples, micro_batch_size_per_gpu=1))
        measured[f"{kind}: s/step"] = taken
        measured[f"{kind}: peak GiB"] = get_torch_device().max_memory_allocated() / GIB
        del pair
        get_torch_device().empty_cache()
    # Weights, gradients and Adam's two moments in float32; of the logits of one row, student and teacher.
    state = 4 * FLOAT32 * parameters
    measured["doctor: state GiB"] = state / GIB
    measured["doctor: logits GiB"] = 2 * FLOAT32 * length * VOCABULARY[size] / GIB
    measured["one row's logits in bf16 GiB"] = BFLOAT16 * length * VOCABULARY[size] / GIB
    assert measured["ema: peak GiB"] * GIB >= state
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
        engines.Sample(prompt=tokens(32), teacher_prompt=tokens(64), response=tokens(length), **ones, **scores)
        for _ in range(count)
    ]
