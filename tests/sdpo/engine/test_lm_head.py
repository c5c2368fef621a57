"""Which models a head of ours can stand in for."""

import pytest
import torch
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, Qwen3Config

from verl.sdpo.engine.lm_head import head_replaced, refuse_changed_logits


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Gemma2Config(), "type gemma2 with final_logit_softcapping=30.0"),
        (CohereConfig(), "type cohere with logit_scale=0.0625"),
        (GraniteConfig(logits_scaling=8.0), "type granite with logits_scaling=8.0"),
    ],
)
def test_models_that_change_their_logits_are_refused_by_name(config, words):
    with pytest.raises(ValueError, match=words):
        refuse_changed_logits(config)


@pytest.mark.parametrize("config", [LlamaConfig(), Qwen3Config(), Gemma2Config(final_logit_softcapping=None)])
def test_others_pass(config):
    refuse_changed_logits(config)


class Model(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def get_output_embeddings(self):
        return self.head


def test_the_head_comes_back():
    model = Model(torch.nn.Linear(2, 3))
    hidden = torch.arange(8.0).view(2, 2, 2)
    with head_replaced(model, torch.tensor([3, 0]), lambda hidden_ND, head: (hidden_ND, head)):
        seen, head = model.head(hidden)
    assert seen.tolist() == [[6.0, 7.0], [0.0, 1.0]]
    assert head is model.head
    assert model.head(hidden).shape == (2, 2, 3)


def test_a_head_of_another_kind_is_refused():
    class Scaled(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) * 2

    with (
        pytest.raises(ValueError, match=r"needs a plain torch\.nn\.Linear"),
        head_replaced(Model(Scaled(2, 3)), torch.tensor([0]), lambda hidden, head: hidden),
    ):
        pass
