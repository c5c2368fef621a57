"""Rank-side tools: verl's real engines on tiny models, a batch in verl's layout, and a slow unsharded reference.

The reference knows nothing of FSDP, micro-batches, packing or position selection: plain transformers on one whole row
after another, and `verl.sdpo.loss` on the padded result.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from unittest import mock

import torch
from peft import LoraConfig, TaskType, get_peft_model
from tensordict import TensorDict
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import _init_utils
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from verl.sdpo import on_cpu
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.engine.distillation_engine import MODEL_TYPE, SelfDistillationEngine
from verl.sdpo.engine.layout import shares_prefixes
from verl.sdpo.engine.weights import make_teacher
from verl.sdpo.head import EagerHead, Support
from verl.sdpo.loss import compute_self_distillation_loss
from verl.sdpo.model import Rows
from verl.sdpo.teacher import MixedInLogSpace, Teacher, TrustRegion
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.utils.losses import ppo_loss as ppo_loss_of_verl
from verl.workers.utils.padding import response_from_nested

TEMPERATURE = 0.7
LORA_ALPHA = 6
# The reference differs from the engine in the order of float32 sums only.
CLOSE = {"rtol": 1e-3, "atol": 2e-6}


def build_engine(path: str, *, strategy: str, forward_only: bool = False, **options) -> SelfDistillationEngine:
    """options: compute ("fp32", "bf16"), lr, optimizer (fields of FSDPOptimizerConfig), remove_padding,
    gradient_checkpointing, lora_rank, stays (whether a forward-only model does, see PlacedEngine), and fields of
    FSDPEngineConfig."""
    compute, stays = options.pop("compute", "fp32"), options.pop("stays", None)
    optimizer = {"lr": options.pop("lr", 1e-3), "weight_decay": 0.0, **options.pop("optimizer", {})}
    engine = EngineRegistry.new(
        model_type=MODEL_TYPE,
        backend=strategy,
        model_config=HFModelConfig(
            path=path,
            use_remove_padding=options.pop("remove_padding", False),
            override_config={"attn_implementation": "sdpa"},
            model_type=MODEL_TYPE,
            enable_gradient_checkpointing=options.pop("gradient_checkpointing", True),
            lora_rank=options.pop("lora_rank", 0),
            lora_alpha=LORA_ALPHA,
        ),
        engine_config=FSDPEngineConfig(
            strategy=strategy,
            forward_only=forward_only,
            mixed_precision={"param_dtype": compute, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            use_torch_compile=False,
            **options,
        ),
        optimizer_config=FSDPOptimizerConfig(total_training_steps=100, **optimizer),
        checkpoint_config=CheckpointConfig(),
    )
    if stays is not None:
        engine.stays = lambda _module: stays
        if on_cpu():
            pin_by_copying()
    # FSDP1 refuses to broadcast weights that are on the CPU, although gloo can: only tests run FSDP1 there.
    with mock.patch.object(_init_utils, "_check_module_states_for_sync_module_states"):
        engine.initialize()
    if stays is not None and forward_only:
        is_offloaded = (
            engine.module.cpu_offload.offload_params if strategy == "fsdp" else engine._uses_fsdp2_cpu_offload_policy
        )
        assert is_offloaded != stays
    return engine


@cache
def pin_by_copying() -> None:
    """Let FSDP offload without an accelerator, which torch needs to pin memory.

    Of pinning the copy remains: it is what parts the weights that are gathered from those that somebody has kept.
    """
    pinned: dict[int, torch.UntypedStorage] = {}

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        # Kept, so that no other tensor gets its address.
        pinned[copy.untyped_storage().data_ptr()] = copy.untyped_storage()
        return copy

    torch.Tensor.pin_memory = pin_memory
    torch.Tensor.is_pinned = lambda tensor: tensor.untyped_storage().data_ptr() in pinned


class ActorConfig(SimpleNamespace):
    """Of verl's what the engine and verl's losses read."""

    def get(self, name, default):
        return getattr(self, name, default)


@dataclass
class Pair:
    student: SelfDistillationEngine
    reference: SelfDistillationEngine | None
    teacher: Teacher


def build_pair(
    path: str,
    *,
    strategy: str,
    actor: dict | None = None,
    settings: dict | None = None,
    shift: float = 0.03,
    **options,
) -> Pair:
    """The actor's engine and its teacher, wired as the worker does it.

    actor: fields of verl's ActorConfig. settings: fields of SelfDistillationConfig. shift: how far the teacher's
    weights are from the student's. options: see `build_engine`.
    """
    config = SelfDistillationConfig(**{"distillation_topk": 20, **(settings or {})})
    student = build_engine(path, strategy=strategy, **options)
    reference = None
    if config.teacher_class.needs_second_model(options.get("lora_rank", 0) > 0):
        reference = build_engine(path, strategy=strategy, forward_only=True, **options)
        shift_weights(reference, shift)
    teacher = make_teacher(config, reference, student)
    actor_config = ActorConfig(
        **{
            "self_distillation": config,
            "clip_ratio": 0.2,
            "clip_ratio_low": 0.2,
            "clip_ratio_high": 0.28,
            "global_batch_info": {},
            "loss_agg_mode": "token-mean",
            "loss_scale_factor": None,
            "entropy_coeff": 0.0,
            "use_kl_loss": False,
            "shared_prefix": "auto",
            **(actor or {}),
        }
    )
    for engine in filter(None, (student, reference)):
        engine.shares_prefixes = shares_prefixes(actor_config.shared_prefix, engine.module)
    student.set_up_distillation(actor_config, teacher)
    return Pair(student, reference, teacher)


@torch.no_grad()
def shift_weights(engine: SelfDistillationEngine, scale: float) -> None:
    """A reproducible change of every weight, the same for every sharding: w += scale * sin(1000 w)."""
    for parameter in engine.module.parameters():
        parameter.add_(torch.sin(1000 * parameter) * scale)


def full_weights(engine: SelfDistillationEngine) -> dict[str, torch.Tensor]:
    """Gathered, on the host."""
    state = get_model_state_dict(engine.module, options=StateDictOptions(full_state_dict=True))
    return {name: value.to("cpu", copy=True) for name, value in state.items()}


@torch.no_grad()
def full_gradients(engine: SelfDistillationEngine) -> dict[str, torch.Tensor]:
    """Gathered like weights: the gradient takes the weights' place for a moment, which works for every FSDP."""
    parameters = list(engine.module.parameters())
    weights = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        # FSDP1 with use_orig_params leaves parameters without a gradient of which this rank has no element.
        parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    gradients = full_weights(engine)
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.copy_(weight)
    return gradients


def unsharded(path: str, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A plain transformers model in float32 that holds these weights, with peft's adapter if they have one."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    ranks = {len(weight) for name, weight in weights.items() if "lora_A" in name}
    if ranks:
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=ranks.pop(), lora_alpha=LORA_ALPHA, target_modules="all-linear"
        )
        model = get_peft_model(model, config)
    model.load_state_dict(weights)
    return model


def merged(weights: dict[str, torch.Tensor], share: float = 1.0) -> dict[str, torch.Tensor]:
    """The weights of a model with an adapter as one without: W + share * LORA_ALPHA / rank * B @ A."""
    dense = {}
    for name, weight in weights.items():
        if "lora_" in name:
            continue
        if name.endswith("base_layer.weight"):
            a, b = (weights[name.replace("base_layer", f"lora_{factor}.default")] for factor in "AB")
            weight = weight + share * LORA_ALPHA / len(a) * (b @ a)
        dense[name.removeprefix("base_model.model.").replace(".base_layer", "")] = weight
    return dense


@dataclass(frozen=True)
class Sample:
    prompt: torch.Tensor
    teacher_prompt: torch.Tensor
    response: torch.Tensor
    mask: torch.Tensor  # 0 on tool tokens
    target: bool
    old_log_probs: torch.Tensor
    ref_log_prob: torch.Tensor
    rollout_is_weights: torch.Tensor
    advantages: torch.Tensor
    graded: bool


def make_samples(targets: str = "10110011") -> list[Sample]:
    """One row per digit, 1 if its teacher saw something. Prompts, responses and tool calls differ in length; the third
    could not be graded."""
    generator, rewards = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)

    def tokens(shortest: int, longest: int) -> torch.Tensor:
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return torch.randint(3, 259, (length,), generator=generator)

    samples = []
    for target in targets:
        response = tokens(4, 11)
        mask = torch.ones_like(response)
        start = int(torch.randint(0, len(response), (), generator=generator))
        mask[start : start + 2] = 0
        log_probs = -5 + torch.randn(2, len(response), generator=generator)
        weights = torch.rand(len(response), generator=generator) + 0.5
        advantages = torch.randn((), generator=rewards).expand(len(response))
        values = (*log_probs, weights, advantages)
        samples.append(Sample(tokens(2, 9), tokens(5, 30), response, mask, target == "1", *values, len(samples) != 2))
    return samples


def rank_share(samples: list[Sample]) -> list[Sample]:
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    size = len(samples) // world_size
    return samples[rank * size : (rank + 1) * size]


def to_batch(samples: list[Sample], *, global_batch_size: int = 8, **settings) -> TensorDict:
    """A rank's mini-batch as `TrainingWorker.train_batch` hands it to the engine."""

    def jagged(rows) -> torch.Tensor:
        return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)

    rows = [torch.cat([s.prompt, s.response]) for s in samples]
    tensors = {
        "input_ids": jagged(rows),
        "position_ids": jagged(torch.arange(len(row)) for row in rows),
        "prompts": jagged(s.prompt for s in samples),
        "responses": jagged(s.response for s in samples),
        "response_mask": jagged(s.mask for s in samples),
        "loss_mask": jagged(torch.cat([torch.zeros_like(s.prompt), s.mask]) for s in samples),
        "teacher_input_ids": jagged(torch.cat([s.teacher_prompt, s.response]) for s in samples),
        "teacher_weight": torch.tensor([float(s.target) for s in samples]),
        "reward_weight": torch.tensor([float(s.graded) for s in samples]),
    }
    for name in ("old_log_probs", "ref_log_prob", "rollout_is_weights", "advantages"):
        tensors[name] = jagged(getattr(s, name) for s in samples)
    defaults = {
        "temperature": TEMPERATURE,
        "use_remove_padding": False,
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": 2,
        "global_batch_size": global_batch_size,
    }
    return tu.get_tensordict(tensors, non_tensor_dict={**defaults, **settings})


def train(student: SelfDistillationEngine, samples: list[Sample], *, by_verl: bool = False, **settings) -> dict:
    """One optimizer step on the rank's share of the samples; what the engine reported. by_verl: verl's own PPO."""
    data, loss = to_batch(rank_share(samples), **settings), partial(ppo_loss_of_verl, student.actor_config)
    with student.train_mode(), verls_engine(by_verl):
        return student.train_batch(data, loss if by_verl else None)["metrics"]


@contextmanager
def verls_engine(is_on: bool) -> Iterator[None]:
    """Run verl's own forward and backward in SDPO's engine."""
    methods = {name: getattr(FSDPEngineWithLMHead, name) for name in ("forward_step", "forward_backward_batch")}
    with mock.patch.multiple(SelfDistillationEngine, **methods) if is_on else nullcontext():
        yield


def gradients_of(
    student: SelfDistillationEngine, samples: list[Sample], more: dict | None = None, **settings
) -> tuple[dict, dict]:
    """Gathered gradients of the rank's mini-batch and what the engine reported, without an optimizer step.

    more: further fields of the batch.
    """
    data = to_batch(samples, **settings)
    data.update(more or {})
    with student.train_mode():
        student.optimizer_zero_grad()
        output = student.forward_backward_batch(data, None)
        return full_gradients(student), output


def infer_raw(engine: SelfDistillationEngine, samples: list[Sample], **settings) -> dict:
    """All that the pass for old log-probabilities returns."""
    with engine.eval_mode(), torch.no_grad():
        return engine.forward_backward_batch(to_batch(samples, **settings), None, forward_only=True)["model_output"]


def infer(engine: SelfDistillationEngine, samples: list[Sample], *, by_verl: bool = False, **settings) -> dict:
    """`log_probs` and `entropy` at the response tokens (flat), as the trainer reads them off the engine's output."""
    data = to_batch(samples, calculate_entropy=True, **settings)
    with engine.eval_mode(), torch.no_grad(), verls_engine(by_verl):
        output = engine.forward_backward_batch(data, None, forward_only=True)["model_output"]
    return {name: response_from_nested(value.cpu(), data["response_mask"]).values() for name, value in output.items()}


def row_logits(model: torch.nn.Module, prompt: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """(T, V): what predicts each token of the response, at the rollout temperature."""
    logits = model(torch.cat([prompt, response]).unsqueeze(0)).logits[0]
    return logits[len(prompt) - 1 : -1] / TEMPERATURE


def pad(rows) -> torch.Tensor:
    return pad_sequence(list(rows), batch_first=True)


def teacher_rows(pair: Pair, samples: list[Sample]) -> torch.Tensor:
    """(N, V): what the teacher's engines really say of every response token, on every rank the same rows."""
    batch = to_batch(samples).to(get_device_id())
    rows = Rows(batch["teacher_input_ids"], batch["responses"].offsets().diff())
    width = int(rows.response_lens.max())
    mask_BT = torch.arange(width, device=rows.response_lens.device) < rows.response_lens.unsqueeze(-1)
    head = EagerHead(batch["responses"].values(), Support(None), temperature=TEMPERATURE)
    with torch.no_grad():
        return pair.teacher.statistics(rows, mask_BT, head).all_log_probs.cpu()


@torch.no_grad()
def expected_rows(model: torch.nn.Module, samples: list[Sample], prompt: str) -> torch.Tensor:
    """(N, V): the unsharded model's log-probabilities of every response token after `prompt` or `teacher_prompt`."""
    return torch.cat([row_logits(model, getattr(s, prompt), s.response).log_softmax(-1) for s in samples])


def expected_teacher_rows(model: torch.nn.Module, samples: list[Sample]) -> torch.Tensor:
    return expected_rows(model, samples, "teacher_prompt")


def reference_loss(student: torch.nn.Module, teacher_logits, samples: list[Sample], actor) -> torch.Tensor:
    """The loss of the whole mini-batch on one device.

    teacher_logits: Sample -> (T, V).
    """
    settings = actor.self_distillation
    log_probs = [row_logits(student, s.prompt, s.response).log_softmax(-1) for s in samples]
    with torch.no_grad():
        teacher_log_probs = [teacher_logits(s).log_softmax(-1) for s in samples]
    ids = [s.response.unsqueeze(-1) for s in samples]
    tensors = {
        "student_log_probs": pad(p.gather(-1, i).squeeze(-1) for p, i in zip(log_probs, ids, strict=True)),
        "teacher_log_probs": pad(p.gather(-1, i).squeeze(-1) for p, i in zip(teacher_log_probs, ids, strict=True)),
    }
    support = settings.objective.support
    if support.is_whole or support.k:
        k = support.count(log_probs[0].shape[-1])
        name = "all" if support.is_whole else "topk"
        indices = [p.topk(k, dim=-1).indices for p in log_probs]
        tensors[f"student_{name}_log_probs"] = pad(p.gather(-1, i) for p, i in zip(log_probs, indices, strict=True))
        tensors[f"teacher_{name}_log_probs"] = pad(
            p.gather(-1, i) for p, i in zip(teacher_log_probs, indices, strict=True)
        )
    loss, _ = compute_self_distillation_loss(
        response_mask=pad(s.mask for s in samples),
        self_distillation_mask=torch.tensor([float(s.target) for s in samples]),
        self_distillation_config=settings,
        loss_agg_mode=actor.loss_agg_mode,
        loss_scale_factor=actor.loss_scale_factor,
        old_log_probs=pad(s.old_log_probs for s in samples),
        rollout_is_weights=pad(s.rollout_is_weights for s in samples),
        **tensors,
    )
    teacher_share, reward_share = settings.routing.shares(torch.tensor([s.target for s in samples]))
    # One share of the teacher for all that have one, in every routing that there is.
    loss = loss * teacher_share.max()
    if settings.routing.reads_rewards:
        gaps = [p.gather(-1, i).squeeze(-1) - s.old_log_probs for p, i, s in zip(log_probs, ids, samples, strict=True)]
        losses = [
            share * s.graded * s.rollout_is_weights * ppo_loss(gap.exp(), s.advantages)
            for share, s, gap in zip(reward_share.tolist(), samples, gaps, strict=True)
        ]
        loss = loss + of_all(losses, samples, actor.loss_agg_mode)
    entropies = [-(p.exp() * p).sum(-1) for p in log_probs]
    loss = loss - actor.entropy_coeff * of_all(entropies, samples, actor.loss_agg_mode)
    if actor.use_kl_loss:
        gaps = [p.gather(-1, i).squeeze(-1) - s.ref_log_prob for p, i, s in zip(log_probs, ids, samples, strict=True)]
        form = {"kl": lambda gap: gap, "low_var_kl": lambda gap: torch.exp(-gap) - 1 + gap}[actor.kl_loss_type]
        penalties = [form(gap).clamp(max=10) for gap in gaps]
        loss = loss + actor.kl_loss_coef * of_all(penalties, samples, actor.loss_agg_mode)
    return loss


def of_all(values: list[torch.Tensor], samples: list[Sample], loss_agg_mode: str) -> torch.Tensor:
    """The mean over all response tokens, or over all samples of the mean over theirs, of one (T,) each."""
    counted = [row[s.mask.bool()] for row, s in zip(values, samples, strict=True)]
    if loss_agg_mode == "seq-mean-token-mean":
        return sum(row.mean() for row in counted) / len(samples)
    return torch.cat(counted).mean()


def ppo_loss(ratio: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """PPO's clip to [0.8, 1.28], and the dual clip at 3 where the advantage is negative."""
    clipped = torch.min(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
    return -torch.where(advantages < 0, torch.max(clipped, 3 * advantages), clipped)


def reference_gradients(pair: Pair, path: str, samples: list[Sample]) -> tuple[dict, float]:
    """Gradients and value of `reference_loss` at the pair's present weights, whatever its kind of teacher."""
    student = unsharded(path, full_weights(pair.student))
    settings = pair.student.actor_config.self_distillation
    reference = student
    if pair.reference:
        reference = unsharded(path, full_weights(pair.reference))
    elif settings.teacher_class.needs_reference:
        reference = unsharded(path, merged(full_weights(pair.student), share=0.0))

    def teacher_logits(sample: Sample) -> torch.Tensor:
        logits = row_logits(reference, sample.teacher_prompt, sample.response)
        if settings.teacher_class is not TrustRegion:
            return logits
        current = row_logits(student, sample.teacher_prompt, sample.response)
        rate = settings.teacher_config.teacher_update_rate
        return MixedInLogSpace(logits.__getitem__, current.__getitem__, rate)(slice(None))

    loss = reference_loss(student, teacher_logits, samples, pair.student.actor_config)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters() if parameter.requires_grad}
    return gradients, loss.item()


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **tolerance) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda text, n=name: f"{n}: {text}", **{**CLOSE, **tolerance})


def global_sum(values: list[float]) -> float:
    """As verl reports losses and SUM metrics: summed over micro-batches, averaged over ranks."""
    total = torch.tensor(sum(values), dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.item() / torch.distributed.get_world_size()


def global_loss(output: dict) -> float:
    return global_sum(output["loss"])


@contextmanager
def every_row_read(is_on: bool) -> Iterator[None]:
    """The student computes rows without a target too, as it does where they have another loss."""
    modules = ("verl.sdpo.engine.distillation_engine", "verl.sdpo.micro_step")
    with ExitStack() as stack:
        for module in modules if is_on else ():
            stack.enter_context(mock.patch(f"{module}.reads_every_row", lambda *args: True))
        yield


@contextmanager
def shapes_seen(engine: SelfDistillationEngine) -> Iterator[dict[str, list[tuple[int, ...]]]]:
    """Shapes of the token ids that enter the embedding, and how many positions the head scores, forward by forward."""
    shapes = {"embedded": [], "scored": []}
    handles = [
        engine.module.get_input_embeddings().register_forward_hook(
            lambda _module, args, _output: shapes["embedded"].append(tuple(args[0].shape))
        ),
        engine.module.get_output_embeddings().register_forward_hook(
            lambda _module, _args, output: shapes["scored"].append(len(getattr(output, "log_probs", output)))
        ),
    ]
    yield shapes
    for handle in handles:
        handle.remove()
