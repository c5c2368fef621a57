"""verl's FSDP engine with SDPO's training step: student forward, teacher forward and loss in one micro-batch.

Shapes: `B` sequences of a micro-batch, `T` response tokens of its longest response, `N` response tokens that are
compared, `V` vocabulary. Fields of a sample that end in `_ids`, `_mask` or `_probs` are jagged (verl's no-padding
layout); `response_*` fields cover the response only.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from tensordict import TensorDict

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.loss import TokenStatistics, aggregate, compute_self_distillation_loss, token_statistics
from verl.sdpo.teacher import FrozenTeacher
from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional as verl_F
from verl.utils.device import get_device_id, get_device_name
from verl.utils.metric import Metric
from verl.workers.config import ActorConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

MODEL_TYPE = "sdpo_language_model"
# What inference needs of a position: no distribution, only the sampled token.
SAMPLED_TOKEN = SelfDistillationConfig(full_logit_distillation=False, alpha=1.0)


@contextmanager
def logits_only_at(model: torch.nn.Module, positions: torch.Tensor) -> Iterator[None]:
    """Let the language-model head see only `positions` of the flattened (B * L) hidden states.

    The output logits are then (1, len(positions), V). A teacher prompt of 10k tokens times the vocabulary would be the
    largest tensor of the step, and none of it is needed. `logits_to_keep` of transformers keeps the same columns of
    every row, which does not fit rows with prompts of different lengths.
    """

    def select(_head, args):
        (hidden,) = args
        return (hidden.flatten(0, 1).index_select(0, positions).unsqueeze(0),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def to_rows(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scatter per-token values (N, ...) to the True places of mask (B, T): (B, T, ...), zero elsewhere."""
    rows = values.new_zeros(*mask.shape, *values.shape[1:])
    rows[mask] = values
    return rows


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp", "fsdp2"], device="cuda")
class SelfDistillationEngine(FSDPEngineWithLMHead):
    """FSDP engine whose training step is SDPO, and which needs logits at response positions only."""

    actor_config: ActorConfig
    settings: SelfDistillationConfig
    teacher: FrozenTeacher

    def __init__(self, model_config, *args, **kwargs):
        super().__init__(model_config, *args, **kwargs)
        # The name only chose this class; verl's `_build_module` knows no other model type.
        model_config.model_type = "language_model"

    def set_up_distillation(self, actor_config: ActorConfig, teacher: FrozenTeacher) -> None:
        """Give the actor's engine its teacher; called once, after both models are built."""
        self.actor_config = actor_config
        self.settings = actor_config.self_distillation
        self.teacher = teacher

    def optimizer_step(self) -> float:
        grad_norm = super().optimizer_step()
        if self.settings.teacher_update_interval == "optimizer":
            self.teacher.update()
        return grad_norm

    def forward_backward_batch(self, data: TensorDict, loss_function, forward_only=False):
        if not forward_only:
            data = data.copy()  # of the dict, not of its tensors: the caller's rows stay as they are
            self._count_targets(data)
            if tu.get_non_tensor_data(data, "use_dynamic_bsz", default=True):
                self._budget_longer_row(data)
        return super().forward_backward_batch(data, loss_function, forward_only=forward_only)

    def _count_targets(self, data: TensorDict) -> None:
        """Count the distilled tokens and sequences of the global mini-batch: the loss's denominators."""
        tokens = data["response_mask"].to_padded_tensor(0).sum(-1) * data["self_distillation_mask"]
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
        if "student_input_ids" in micro_batch:
            micro_batch["input_ids"] = micro_batch.pop("student_input_ids")
        loss, metrics = self._distill(micro_batch)
        return loss, {"model_output": {}, "loss": loss.detach().item(), "metrics": metrics}

    def _score_responses(self, batch: TensorDict) -> dict[str, torch.Tensor]:
        """Log-probabilities and entropies where verl's engine has them, zero at the positions that it ignores.

        verl computes logits and entropies of whole sequences, which takes a small model longer than its forward pass.
        """
        offsets, responses = batch["input_ids"].offsets(), batch["responses"]
        response_lens = responses.offsets().diff()
        width = int(response_lens.max())
        wanted = torch.arange(width, device=response_lens.device) < response_lens.unsqueeze(-1)  # (B, T)
        logits = self.response_logits(batch, wanted, response_lens)
        statistics = token_statistics(logits, responses.values(), settings=SAMPLED_TOKEN)
        rows, steps = wanted.nonzero(as_tuple=True)
        positions = (offsets[1:] - response_lens - 1)[rows] + steps
        zeros = logits.new_zeros(int(offsets[-1]), dtype=statistics.log_probs.dtype)
        values = {"log_probs": statistics.log_probs, "entropy": statistics.entropy}
        return {
            name: torch.nested.nested_tensor_from_jagged(zeros.index_put((positions,), value), offsets)
            for name, value in values.items()
        }

    def _distill(self, batch: TensorDict) -> tuple[torch.Tensor, dict[str, Metric]]:
        """Loss and metrics of one micro-batch.

        All ranks run the same forwards, with or without targets of their own, so that FSDP's collectives match; a
        micro-batch in which no rank has a target skips the teacher.
        """
        actor = self.actor_config
        response_mask = batch["response_mask"].to_padded_tensor(0).bool()  # (B, T)
        targets = batch["self_distillation_mask"].bool()  # (B,)
        distilled = response_mask & targets.unsqueeze(-1)  # (B, T)
        regularized = actor.entropy_coeff != 0 or actor.use_kl_loss
        wanted = response_mask if regularized else distilled
        responses = batch["responses"]
        response_lens = responses.offsets().diff()
        token_ids = responses.to_padded_tensor(0)

        logits = self.response_logits(batch, wanted, response_lens)
        metrics = {"self_distillation/empty_target_batch": Metric("mean", float(not targets.any()))}
        if self._any_rank(targets.any()):
            # Without a regularizer the two are the same, and indexing would copy the largest tensor of the step.
            student_logits = logits[distilled[wanted]] if regularized else logits
            student = token_statistics(student_logits, token_ids[distilled], settings=self.settings)
            with torch.no_grad():
                teacher_logits = self._teacher_logits(batch, targets, distilled, response_lens)
                teacher = token_statistics(
                    teacher_logits, token_ids[distilled], settings=self.settings, topk_indices=student.topk_indices
                )
            loss, distillation_metrics = self._self_distillation_loss(batch, student, teacher, targets, distilled)
            metrics.update(distillation_metrics)
        else:
            # Attached to the graph: the backward pass of a micro-batch without targets has collectives too.
            loss = logits.sum() * 0.0
        if regularized:
            loss = loss + self._regularization(batch, logits, token_ids, response_mask, metrics)
        return loss, metrics

    def response_logits(self, batch: TensorDict, wanted: torch.Tensor, response_lens: torch.Tensor) -> torch.Tensor:
        """Logits, divided by the rollout temperature, that predict the wanted response tokens.

        Args:
            batch: `input_ids`, `position_ids` (jagged, prompt and response) and verl's non-tensor settings.
            wanted: (B, T) bool with N True places.
            response_lens: (B,), tokens of each row's response.

        Returns:
            (N, V), row by row in the order of `wanted`.
        """
        model_inputs, _ = self.prepare_model_inputs(micro_batch=batch)
        lengths = batch["input_ids"].offsets().diff()
        width = model_inputs["input_ids"].shape[1]
        packed = model_inputs["input_ids"].shape[0] == 1
        row_starts = (
            batch["input_ids"].offsets()[:-1] if packed else torch.arange(len(lengths), device=wanted.device) * width
        )
        rows, steps = wanted.nonzero(as_tuple=True)
        # The logits at position i predict token i + 1.
        positions = (row_starts + lengths - response_lens - 1)[rows] + steps
        # The head needs one position at least; the slice below drops it again and keeps the graph.
        positions = positions if len(positions) else positions.new_zeros(1)
        autocast = (
            nullcontext()
            if self._autocast_dtype == torch.float32
            else torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)
        )
        with autocast, logits_only_at(self.module, positions):
            logits = self.module(**model_inputs, use_cache=False).logits.squeeze(0)
        logits = logits[: len(rows)]
        # Dividing copies the largest tensor of the step.
        return logits if batch["temperature"] == 1.0 else logits / batch["temperature"]

    def _any_rank(self, flag: torch.Tensor) -> bool:
        flag = flag.int()
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        return bool(flag)

    def _teacher_logits(
        self, batch: TensorDict, targets: torch.Tensor, distilled: torch.Tensor, response_lens: torch.Tensor
    ) -> torch.Tensor:
        """(N, V) at the distilled tokens; rows without a target are left out of the teacher's forward."""
        rows = [row for row, is_target in zip(batch["teacher_input_ids"].unbind(), targets, strict=True) if is_target]
        wanted, response_lens = distilled[targets], response_lens[targets]
        if not rows:
            # Only other ranks have targets: take part in their collectives with the shortest possible row.
            rows, wanted, response_lens = [batch["teacher_input_ids"].unbind()[0][:1]], distilled[:1], response_lens[:1]
        jagged = {
            "input_ids": torch.nested.as_nested_tensor(rows, layout=torch.jagged),
            "position_ids": torch.nested.as_nested_tensor(
                [torch.arange(len(row), device=row.device) for row in rows], layout=torch.jagged
            ),
        }
        settings = {
            key: tu.get_non_tensor_data(batch, key, default=None) for key in ("use_remove_padding", "temperature")
        }
        teacher_batch = tu.get_tensordict(jagged, non_tensor_dict=settings)
        return self.teacher.logits(lambda engine: engine.response_logits(teacher_batch, wanted, response_lens))

    def _self_distillation_loss(
        self,
        batch: TensorDict,
        student: TokenStatistics,
        teacher: TokenStatistics,
        targets: torch.Tensor,
        distilled: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, Metric]]:
        """Bring the flat statistics of the target rows into (B, T, ...) and call the loss."""
        mask = distilled[targets]
        names = ("log_probs", "all_log_probs", "topk_log_probs")
        tensors = {
            f"{who}_{name}": to_rows(value, mask)
            for who, statistics in (("student", student), ("teacher", teacher))
            for name in names
            if (value := getattr(statistics, name)) is not None
        }
        for name in ("old_log_probs", "rollout_is_weights"):
            if name in batch:
                tensors[name] = batch[name].to_padded_tensor(0.0)[targets]
        denominators = {"batch_num_tokens": batch["num_target_tokens"], "dp_size": batch["dp_size"]}
        loss, values = compute_self_distillation_loss(
            response_mask=mask,
            self_distillation_config=self.settings,
            loss_agg_mode=self.actor_config.loss_agg_mode,
            global_batch_size=batch["num_target_sequences"],
            loss_scale_factor=self.actor_config.loss_scale_factor,
            **denominators,
            **tensors,
        )
        for who, statistics in (("student", student), ("teacher", teacher)):
            entropy = aggregate(to_rows(statistics.entropy, mask), mask, loss_agg_mode="token-mean", **denominators)
            values[f"self_distillation/{who}_entropy"] = entropy.item()
        metrics = {name: Metric("sum", value) for name, value in values.items()}
        metrics["actor/pg_loss"] = Metric("sum", loss)
        return loss, metrics

    def _regularization(
        self,
        batch: TensorDict,
        logits: torch.Tensor,
        token_ids: torch.Tensor,
        response_mask: torch.Tensor,
        metrics: dict[str, Metric],
    ) -> torch.Tensor:
        """Entropy bonus and KL to the fixed reference over all response tokens, as verl's `ppo_loss` adds them."""
        actor = self.actor_config
        normalizers = {
            "loss_mask": response_mask,
            "loss_agg_mode": actor.loss_agg_mode,
            "dp_size": batch["dp_size"],
            "batch_num_tokens": batch["batch_num_tokens"],
            "global_batch_size": batch["global_batch_size"],
            "loss_scale_factor": actor.loss_scale_factor,
        }
        loss = logits.new_zeros(())
        if actor.entropy_coeff != 0:
            entropy = agg_loss(to_rows(verl_F.entropy_from_logits(logits), response_mask), **normalizers)
            metrics["actor/entropy_loss"] = Metric("sum", entropy)
            loss = loss - actor.entropy_coeff * entropy
        if actor.use_kl_loss:
            log_probs = to_rows(verl_F.logprobs_from_logits(logits, token_ids[response_mask]), response_mask)
            reference = batch["ref_log_prob"].to_padded_tensor(0.0)
            kl = agg_loss(kl_penalty(log_probs, reference, actor.kl_loss_type), **normalizers)
            metrics["actor/kl_loss"] = Metric("sum", kl)
            loss = loss + actor.kl_loss_coef * kl
        return loss
