"""verl's FSDP engine with SDPO's training step, and with heads that see response positions only.

Fields of a sample that end in `_ids`, `_mask` or `_probs` are jagged (verl's no-padding layout); `response_*` fields
cover the response only. Shapes as in micro_step.py.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import TensorDict

from verl.sdpo.adapters.actor_config import SelfDistillationActorConfig
from verl.sdpo.adapters.head_place import head_replaced, refuse_changed_logits
from verl.sdpo.adapters.layout import as_verl, by_prompt, predicting_positions, reordered, shared, without_objects
from verl.sdpo.adapters.losses import make_policy_loss, make_regularizer
from verl.sdpo.adapters.placement import PlacedEngine
from verl.sdpo.adapters.recorder import TokenRecorder
from verl.sdpo.adapters.sums import EMPTY, summed
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.head import SAMPLED_TOKEN, ChunkedHead, Outcomes
from verl.sdpo.micro_step import MicroBatch, micro_step
from verl.sdpo.model import Result, Rows
from verl.sdpo.objective import Denominators
from verl.sdpo.teacher import Teacher
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine import EngineRegistry

MODEL_TYPE = "sdpo_language_model"
# Fields of a sample: the most likely tokens of every response position before the update, flat (its length * K,).
OLD_TOPK = ("old_topk_indices", "old_topk_log_probs")


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp", "fsdp2"], device=["cuda", "cpu"])
class SelfDistillationEngine(PlacedEngine):
    """FSDP engine whose training step is SDPO."""

    actor_config: SelfDistillationActorConfig
    settings: SelfDistillationConfig
    teacher: Teacher
    shares_prefixes: bool = False
    """Whether rows of a micro-batch with the same prompt compute it once; see layout.py."""
    recorder = TokenRecorder()
    old_outcomes: Outcomes = SAMPLED_TOKEN
    """What the pass for old log-probabilities keeps of every position, besides the sampled token."""

    def __init__(self, model_config, *args, **kwargs):
        super().__init__(model_config, *args, **kwargs)
        refuse_changed_logits(model_config.hf_config)
        # The name only chose this class; verl's `_build_module` knows no other model type.
        model_config.model_type = "language_model"

    def set_up_distillation(self, actor_config: SelfDistillationActorConfig, teacher: Teacher) -> None:
        """Give the actor's engine its teacher; called once, after both models are built."""
        self.actor_config = actor_config
        self.settings = actor_config.self_distillation
        self.teacher = teacher
        self.regularizer = make_regularizer(actor_config)
        self.policy_loss = make_policy_loss(actor_config)
        if self.settings.objective.needs_old_topk:
            self.old_outcomes = self.settings.objective.outcomes

    def optimizer_step(self) -> float:
        grad_norm = super().optimizer_step()
        self.teacher.after_optimizer_step()
        return grad_norm

    def forward_backward_batch(self, data: TensorDict, loss_function, forward_only=False):
        order = by_prompt(data) if self.shares_prefixes else None
        data = without_objects(data)
        if order is not None:
            data = tu.index_select_tensor_dict(data, order)
        if not forward_only:
            self._count_targets(data)
            if tu.get_non_tensor_data(data, "use_dynamic_bsz", default=True):
                self._budget_longer_row(data)
        output: Any = super().forward_backward_batch(data, loss_function, forward_only=forward_only)  # one dict
        if order is not None:
            scores = output["model_output"]
            scores |= {name: reordered(rows, order.argsort()) for name, rows in scores.items()}
        return output if forward_only else summed(output)

    def _count_targets(self, data: TensorDict) -> None:
        """Count the distilled tokens and sequences of the global mini-batch."""
        tokens = data["response_mask"].to_padded_tensor(0).sum(-1) * (data["teacher_weight"] > 0)
        counts = torch.stack([tokens.sum(), (tokens > 0).sum()]).long().to(get_device_id())
        torch.distributed.all_reduce(counts, group=self.get_data_parallel_group())
        num_tokens, num_sequences = counts.tolist()
        tu.assign_non_tensor(data, num_target_tokens=num_tokens, num_target_sequences=num_sequences)

    @staticmethod
    def _budget_longer_row(data: TensorDict) -> None:
        """Let verl's dynamic batching count the longer of a sample's student and teacher row.

        verl reads the lengths off `input_ids`, so these become a placeholder until `forward_step` puts them back.
        """
        lengths = torch.maximum(data["input_ids"].offsets().diff(), data["teacher_input_ids"].offsets().diff())
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        data["student_input_ids"] = data["input_ids"]
        placeholder = torch.zeros(int(offsets[-1]), dtype=torch.int8, device=offsets.device)
        data["input_ids"] = torch.nested.nested_tensor_from_jagged(placeholder, offsets)

    def forward_step(self, micro_batch: TensorDict, loss_function, forward_only):
        micro_batch = micro_batch.to(get_device_id())
        if forward_only:
            return None, {"model_output": self._score_responses(micro_batch), "loss": 0.0, "metrics": {}}
        batch = self._micro_batch(micro_batch)
        loss, sums = micro_step(
            batch,
            student=self,
            teacher=self.teacher,
            objective=self.settings.objective,
            routing=self.settings.routing,
            policy_loss=self.policy_loss,
            head_kind=self.settings.head,
            regularizer=self.regularizer,
            any_rank=self._any_rank,
        )
        metrics = {name: value.detach() for name, value in sums.items()}
        metrics[EMPTY] = 1.0 - batch.targets.any().float()
        return loss, {"model_output": {}, "loss": loss.detach(), "metrics": metrics}

    def _micro_batch(self, batch: TensorDict) -> MicroBatch:
        responses, actor = batch["responses"], self.actor_config
        response_lens = responses.offsets().diff()
        shared = {"dp_size": batch["dp_size"], "loss_scale_factor": actor.loss_scale_factor}
        padded = {
            name: batch[name].to_padded_tensor(0.0)
            for name in ("old_log_probs", "advantages", "rollout_is_weights", "ref_log_prob")
            if name in batch
        }
        mask_BT = batch["response_mask"].to_padded_tensor(0).bool()
        if self.old_outcomes.topk:
            padded |= {name: batch[name].to_padded_tensor(0).view(*mask_BT.shape, -1) for name in OLD_TOPK}
        return MicroBatch(
            student_rows=Rows(batch.get("student_input_ids", batch["input_ids"]), response_lens),
            teacher_rows=Rows(batch["teacher_input_ids"], response_lens),
            token_ids=responses.to_padded_tensor(0),
            response_mask=mask_BT,
            teacher_weights=batch["teacher_weight"],
            reward_weights=batch["reward_weight"],
            temperature=batch["temperature"],
            loss_agg_mode=actor.loss_agg_mode,
            with_target=Denominators(batch["num_target_tokens"], batch["num_target_sequences"], **shared),
            of_all=Denominators(batch["batch_num_tokens"], batch["global_batch_size"], **shared),
            observer=self.recorder.observer(batch),
            **padded,
        )

    def _any_rank(self, flag: torch.Tensor) -> bool:
        flag = flag.int()
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        return bool(flag)

    def _score_responses(self, batch: TensorDict) -> dict[str, torch.Tensor]:
        """Log-probabilities and entropies where verl's engine has them, zero at the positions that it ignores.

        verl computes logits and entropies of whole sequences, which takes a small model longer than its forward pass.
        """
        rows = Rows(batch["input_ids"], batch["responses"].offsets().diff())
        width = int(rows.response_lens.max())
        wanted = torch.arange(width, device=rows.response_lens.device) < rows.response_lens.unsqueeze(-1)
        head = ChunkedHead(batch["responses"].values(), self.old_outcomes, temperature=batch["temperature"])
        statistics = self.run(rows, wanted, head)
        offsets = batch["input_ids"].offsets()
        positions = predicting_positions(rows, wanted, offsets[:-1])
        zeros = statistics.log_probs.new_zeros(int(offsets[-1]))
        scores = {
            name: torch.nested.nested_tensor_from_jagged(zeros.index_put((positions,), value), offsets)
            for name, value in (("log_probs", statistics.log_probs), ("entropy", statistics.entropy))
        }
        if self.old_outcomes.topk:
            kept = {name: getattr(statistics, name.removeprefix("old_")) for name in OLD_TOPK}
            for name, values_NK in kept.items():
                flat_offsets = batch["responses"].offsets() * values_NK.shape[-1]
                scores[name] = torch.nested.nested_tensor_from_jagged(values_NK.flatten(), flat_offsets)
        return scores

    def run(self, rows: Rows, wanted: torch.Tensor, at_head: Callable[..., Result]) -> Result:
        """See `Model`."""
        inputs, positions = shared(rows, wanted) if self.shares_prefixes else as_verl(rows, wanted, self)
        autocast = (
            nullcontext()
            if self._autocast_dtype == torch.float32
            else torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)
        )
        with autocast, head_replaced(self.module, positions, at_head):
            return self.module(**inputs, use_cache=False).logits
