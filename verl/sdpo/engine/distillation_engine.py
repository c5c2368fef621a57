"""verl's FSDP engine with SDPO's training step, and with heads that see response positions only.

Sample fields that end in `_ids`, `_mask` or `_probs` are jagged (verl's no-padding layout); `response_*` fields cover
the response only. Shapes as in micro_step.py.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.engine.actor_config import SelfDistillationActorConfig, make_policy_loss, make_regularizer
from verl.sdpo.engine.layout import as_verl, predicting_positions, shared
from verl.sdpo.engine.lm_head import head_replaced, refuse_changed_logits
from verl.sdpo.engine.micro_batches import INDEX, Packing, Split, empty_share, summed, without_objects
from verl.sdpo.engine.placement import PlacedEngine
from verl.sdpo.engine.recorder import TokenRecorder
from verl.sdpo.head import SAMPLED_TOKEN, ChunkedHead, Support
from verl.sdpo.micro_step import MicroBatch, micro_step, reads_every_row
from verl.sdpo.model import Result, Rows
from verl.sdpo.objective import Denominators
from verl.sdpo.teacher import Teacher
from verl.utils.device import get_device_id, get_device_name
from verl.utils.seqlen_balancing import restore_dynamic_batch
from verl.workers.engine import EngineRegistry

MODEL_TYPE = "sdpo_language_model"
# Sample fields: the top-k of every response position before the update, flattened to (response length * K,).
OLD_TOPK = ("old_topk_indices", "old_topk_log_probs")


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp", "fsdp2"], device=["cuda", "cpu"])
class SelfDistillationEngine(PlacedEngine):
    """FSDP engine whose training step is SDPO."""

    actor_config: SelfDistillationActorConfig
    settings: SelfDistillationConfig
    teacher: Teacher
    shares_prefixes: bool = False
    """Rows of a micro-batch with the same prompt compute it once; see layout.py."""
    recorder = TokenRecorder()
    computed: list[tuple[list[int], list[int]]]
    """Row lengths of the last batch, for student and teacher; see `Packing.computed`."""
    old_support: Support = SAMPLED_TOKEN
    """The support that the pass for old log-probabilities keeps for every position."""

    def __init__(self, model_config, *args, **kwargs):
        super().__init__(model_config, *args, **kwargs)
        refuse_changed_logits(model_config.hf_config)
        # The name only selected this class; verl's `_build_module` knows no other model type.
        model_config.model_type = "language_model"

    def set_up_distillation(self, actor_config: SelfDistillationActorConfig, teacher: Teacher) -> None:
        """Connect the actor's engine with its teacher; called once, after both models are built."""
        self.actor_config = actor_config
        self.settings = actor_config.self_distillation
        self.teacher = teacher
        self.regularizer = make_regularizer(actor_config)
        self.policy_loss = make_policy_loss(actor_config)
        if self.settings.objective.needs_old_topk:
            self.old_support = self.settings.objective.support

    def optimizer_step(self) -> float:
        grad_norm = super().optimizer_step()
        self.teacher.after_optimizer_step()
        return grad_norm

    def forward_backward_batch(self, data: TensorDict, loss_function, forward_only=False):
        data = without_objects(data)
        packing = Packing(data, shares_prefixes=self.shares_prefixes, forward_only=forward_only)
        all_parts = parts = packing.parts()
        if not (forward_only or reads_every_row(self.regularizer, self.settings.routing)):
            parts = packing.parts(packing.has_context)
        split = Split.agreed(parts, packing.has_context, self.get_data_parallel_group())
        self.computed = packing.computed(parts)
        step = partial(self._score, data, split) if forward_only else self._training(data, split)
        # verl's annotation says a list of dicts; it is one dict.
        output: Any = super().forward_backward_batch(split.indices(), step, forward_only=forward_only)
        if forward_only:
            scores = output["model_output"]
            return output | {"model_output": {k: restore_dynamic_batch(v, split.rows) for k, v in scores.items()}}
        output = summed(output)
        output["metrics"] |= empty_share(all_parts, packing.has_context)
        return output

    def forward_step(self, micro_batch: TensorDict, loss_function, forward_only):
        # verl's loop passes on the step that `forward_backward_batch` gave it in the place of a loss function.
        return loss_function(int(micro_batch[INDEX]))

    def _training(self, data: TensorDict, split: Split) -> Callable[[int], tuple]:
        """Return `_train` with its denominators: the global mini-batch's tokens and sequences, distilled and all."""
        tokens = data["response_mask"].to_padded_tensor(0).sum(-1)
        distilled = tokens * (data["teacher_weight"] > 0)
        counts = torch.stack([distilled.sum(), (distilled > 0).sum(), tokens.sum()]).long().to(get_device_id())
        torch.distributed.all_reduce(counts, group=self.get_data_parallel_group())
        num_distilled, num_contexts, num_tokens = counts.tolist()
        denominators = partial(
            Denominators,
            dp_size=self.get_data_parallel_size(),
            loss_scale_factor=self.actor_config.loss_scale_factor,
        )
        context_counts = denominators(num_distilled, num_contexts)
        return partial(self._train, data, split, context_counts, denominators(num_tokens, data["global_batch_size"]))

    def _train(
        self, data: TensorDict, split: Split, context_counts: Denominators, all_counts: Denominators, index: int
    ):
        """Return loss and metrics of a micro-batch in the form of verl's loop."""
        batch = self._micro_batch(split.pick(data, index).to(get_device_id()), context_counts, all_counts)
        loss, sums = micro_step(
            batch,
            student=self,
            teacher=self.teacher,
            objective=self.settings.objective,
            routing=self.settings.routing,
            policy_loss=self.policy_loss,
            head_class=self.settings.head_class,
            regularizer=self.regularizer,
            teaches=split.teaches[index],
        )
        metrics = {name: value.detach() for name, value in sums.items()}
        return loss, {"model_output": {}, "loss": loss.detach(), "metrics": metrics}

    def _micro_batch(self, batch: TensorDict, context_counts: Denominators, all_counts: Denominators) -> MicroBatch:
        responses = batch["responses"]
        response_lens = responses.offsets().diff()
        padded = {
            name: batch[name].to_padded_tensor(0.0)
            for name in ("old_log_probs", "advantages", "rollout_is_weights", "ref_log_prob")
            if name in batch
        }
        mask_BT = batch["response_mask"].to_padded_tensor(0).bool()
        if self.old_support.k:
            padded |= {name: batch[name].to_padded_tensor(0).view(*mask_BT.shape, -1) for name in OLD_TOPK}
        return MicroBatch(
            student_rows=Rows(batch["input_ids"], response_lens),
            teacher_rows=Rows(batch["teacher_input_ids"], response_lens),
            token_ids=responses.to_padded_tensor(0),
            response_mask=mask_BT,
            teacher_weights=batch["teacher_weight"],
            reward_weights=batch["reward_weight"],
            temperature=batch["temperature"],
            loss_agg_mode=self.actor_config.loss_agg_mode,
            context_counts=context_counts,
            all_counts=all_counts,
            observer=self.recorder.observer(batch),
            **padded,
        )

    def _score(self, data: TensorDict, split: Split, index: int):
        """Return log-probabilities and entropies of a micro-batch in the form of verl's loop."""
        scores = self._score_responses(split.pick(data, index).to(get_device_id()))
        return None, {"model_output": scores if split.rows[index] else {}, "loss": 0.0, "metrics": {}}

    def _score_responses(self, batch: TensorDict) -> dict[str, torch.Tensor]:
        """Return log-probabilities and entropies in verl's layout, zero at the positions that verl ignores.

        verl computes logits and entropies of whole sequences, which takes a small model longer than its forward pass.
        """
        rows = Rows(batch["input_ids"], batch["responses"].offsets().diff())
        width = int(rows.response_lens.max())
        mask_BT = torch.arange(width, device=rows.response_lens.device) < rows.response_lens.unsqueeze(-1)
        head = ChunkedHead(batch["responses"].values(), self.old_support, temperature=batch["temperature"])
        statistics = self.run(rows, mask_BT, head)
        offsets = batch["input_ids"].offsets()
        positions = predicting_positions(rows, mask_BT, offsets[:-1])
        zeros = statistics.log_probs.new_zeros(int(offsets[-1]))
        scores = {
            name: torch.nested.nested_tensor_from_jagged(zeros.index_put((positions,), value), offsets)
            for name, value in (("log_probs", statistics.log_probs), ("entropy", statistics.entropy))
        }
        if self.old_support.k:
            kept = zip(OLD_TOPK, (statistics.support_indices, statistics.support_log_probs), strict=True)
            for name, values_NK in kept:
                assert values_NK is not None
                flat_offsets = batch["responses"].offsets() * values_NK.shape[-1]
                scores[name] = torch.nested.nested_tensor_from_jagged(values_NK.flatten(), flat_offsets)
        return scores

    def run(self, rows: Rows, mask_BT: torch.Tensor, head: Callable[..., Result]) -> Result:
        """Implement `Model.run`."""
        inputs, positions = shared(rows, mask_BT) if self.shares_prefixes else as_verl(rows, mask_BT, self)
        autocast = (
            nullcontext()
            if self._autocast_dtype == torch.float32
            else torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)
        )
        with autocast, head_replaced(self.module, positions, head):
            return self.module(**inputs, use_cache=False).logits
