"""Prompts that are computed once for all their responses."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from verl.sdpo.engine.actor_config import SelfDistillationActorConfig
from verl.sdpo.engine.layout import obstacle_to_sharing, shares_prefixes
from verl.sdpo.model import Rows
from verl.sdpo.prefix import PackedPrefixes, prompts

# The example of prefix.py, with the rows in another order: b, c, a.
ROWS = [([1, 2, 3], [6, 7]), ([8, 9], [10, 11]), ([1, 2, 3], [4, 5, 6])]


def rows_of(pairs) -> Rows:
    ids = torch.nested.as_nested_tensor([torch.tensor(p + r) for p, r in pairs], layout=torch.jagged)
    return Rows(ids, torch.tensor([len(r) for _, r in pairs]))


def test_packed_prefixes_by_hand():
    """p = 1 2 3 with b = 6 7 and a = 4 5 6; q = 8 9 with c = 10 11."""
    packed = PackedPrefixes.of(rows_of(ROWS))
    assert packed.input_ids.tolist() == [[1, 2, 3, 6, 7, 4, 5, 6], [8, 9, 10, 11, 0, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 2, 3, 0, 0, 0, 0]]
    reads = [
        ["1.......", "11......", "111.....", "1111....", "11111...", "111..1..", "111..11.", "111..111"],
        # Padding reads padding: attention to nothing would have no value.
        ["1.......", "11......", "111.....", "1111....", "....1...", "....11..", "....111.", "....1111"],
    ]
    mask = packed.attention_mask[:, 0].int().tolist()
    assert [["".join("1" if x else "." for x in row) for row in sequence] for sequence in mask] == reads
    # Wanted: both tokens of b; the second of c; the first and the last of a.
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]]).bool()
    assert packed.predicting(mask).tolist() == [2, 3, 10, 2, 6]


def test_short_prompts_share_a_packed_sequence():
    """Groups of 4, 7 and 3 tokens in two sequences of 7, with nothing left over."""
    packed = PackedPrefixes.of(rows_of([([1, 2], [3, 4]), ([5, 6, 7], [8, 9, 10, 11]), ([12], [13, 14])]))
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 11], [1, 2, 3, 4, 12, 13, 14]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 0, 1, 2]]
    assert packed.attention_mask[1, 0].int().tolist()[4] == [0, 0, 0, 0, 1, 0, 0]
    assert packed.predicting(torch.ones(3, 1, dtype=torch.bool)).tolist() == [8, 2, 11]


def test_prompts_are_what_stands_before_the_response():
    assert prompts(rows_of(ROWS)) == [(1, 2, 3), (8, 9), (1, 2, 3)]


def test_rows_without_a_wanted_token_are_left_out():
    rows = rows_of(ROWS)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1]]).bool()
    found, found_mask = rows.only(mask)
    assert [row.tolist() for row in found.input_ids.unbind()] == [[1, 2, 3, 6, 7], [1, 2, 3, 4, 5, 6]]
    assert found.response_lens.tolist() == [2, 3]
    assert found_mask.tolist() == mask[[0, 2]].tolist()
    assert rows.only(mask | True)[0] is rows


def test_a_rank_without_targets_runs_a_single_token():
    rows, mask = rows_of(ROWS).only(torch.zeros(3, 3, dtype=torch.bool))
    packed = PackedPrefixes.of(rows)
    assert packed.input_ids.tolist() == [[1]]
    assert packed.predicting(mask).tolist() == []


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
WITHOUT_OBSTACLE = {
    "llama": LlamaConfig(**SIZES, **HEADS),
    "qwen2": Qwen2Config(**SIZES, **HEADS),
    "qwen3": Qwen3Config(**SIZES, **HEADS, head_dim=8),
    "mistral": MistralConfig(**SIZES, **HEADS, sliding_window=None),
}


def build(config, attention: str = "sdpa"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


@pytest.mark.parametrize("family", WITHOUT_OBSTACLE)
def test_outputs_and_gradients_are_those_of_whole_rows(family):
    """Rows of many lengths, in float64, though the models' norms compute in float32."""
    model = build(WITHOUT_OBSTACLE[family]).double()
    generator = torch.Generator().manual_seed(1)

    def tokens(length: int) -> list[int]:
        return torch.randint(0, 64, (length,), generator=generator).tolist()

    first, second = tokens(9), tokens(4)
    # A prompt that is the beginning of another is another prompt.
    pairs = [(p, tokens(n)) for p, n in ((first, 5), (second, 3), (first, 1), (first[:5], 4), (first, 7))]
    rows = rows_of(pairs)
    mask = torch.arange(7) < rows.response_lens.unsqueeze(-1)
    scale = torch.randn(int(mask.sum()), 64, dtype=torch.float64, generator=generator)

    def gradients(logits: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        (logits * scale).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    whole = torch.cat([model(torch.tensor([p + r]), use_cache=False).logits[0, len(p) - 1 : -1] for p, r in pairs])
    expected = gradients(whole)
    packed = PackedPrefixes.of(rows)
    logits = model(
        packed.input_ids, position_ids=packed.position_ids, attention_mask=packed.attention_mask, use_cache=False
    ).logits
    shared = logits.flatten(0, 1)[packed.predicting(mask)]
    torch.testing.assert_close(shared, whole, rtol=1e-12, atol=1e-12)
    for found, gradient in zip(gradients(shared), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)
    assert max(gradient.abs().max() for gradient in expected) > 0.1


WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("config", "attention", "named"),
    [
        (LlamaConfig(**SIZES, **HEADS), "eager", "attn_implementation is eager"),
        (MistralConfig(**SIZES, **HEADS, sliding_window=4), "sdpa", "a model of type mistral has sliding_attention"),
        (Qwen2Config(**SIZES, **HEADS, **WINDOW), "sdpa", "a model of type qwen2 has sliding_attention"),
    ],
    ids=["eager", "mistral", "qwen2"],
)
def test_models_that_need_more_than_the_mask(config, attention, named):
    model = build(config, attention)
    assert named in obstacle_to_sharing(model)
    assert not shares_prefixes("auto", model)
    assert not shares_prefixes("off", model)
    with pytest.raises(ValueError, match=rf"shared_prefix=on, but {named}.* Set it to auto or off"):
        shares_prefixes("on", model)


def test_models_with_a_state():
    model = build(LlamaConfig(**SIZES, **HEADS))
    assert shares_prefixes("auto", model) and shares_prefixes("on", model)
    model._is_stateful = True
    assert "layers with a state" in obstacle_to_sharing(model)


def test_a_setting_that_is_none_is_refused():
    fields = {"strategy": "fsdp2", "rollout_n": 8, "ppo_micro_batch_size_per_gpu": 1}
    assert SelfDistillationActorConfig(**fields).shared_prefix == "auto"
    with pytest.raises(ValueError, match=r"actor\.shared_prefix='yes': expected one of auto, on, off"):
        SelfDistillationActorConfig(**fields, shared_prefix="yes")
