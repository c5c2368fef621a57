"""Additions of trainer and worker to verl's, each method alone; tests/e2e runs them as a whole."""

import logging
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from tests.sdpo.test_teacher_rows import TEMPLATES, decode, encode
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.context import Rollout
from verl.sdpo.engine.recorder import FOLDER, ROW
from verl.sdpo.engine.worker import SelfDistillationWorker
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.teacher_rows import TeacherRowBuilder
from verl.sdpo.trainer.samples import read_samples
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.tensordict_utils import get_tensordict
from verl.workers.engine_workers import ActorRolloutRefWorker

SelfDistillationTrainer = get_trainer_cls("sdpo")
JAGGED = {"input_ids": torch.int64, "responses": torch.int64, "rm_scores": torch.float32}


def jagged(rows, dtype=torch.float32):
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


class Characters:
    """A tokenizer with a token a character."""

    def batch_decode(self, rows, skip_special_tokens):
        return [decode(row.tolist()) for row in rows]


def entry(question, response, score=0.0, extra_info=None, **reward):
    """What the agent loop leaves of one attempt. The student reads <question>."""
    return {
        "uid": question,
        "raw_prompt": [{"role": "user", "content": question}],
        "input_ids": encode(f"<{question}>{response}"),
        "responses": encode(response),
        "rm_scores": [0.0] * (len(response) - 1) + [score],
        "extra_fields": {"reward_extra_info": reward} if reward else {},
        "extra_info": extra_info or {},
        "multi_modal_inputs": {},
    }


def batch_of(entries, names):
    """Fields of some entries, as TransferQueue returns them."""
    columns = {name: [entry[name] for entry in entries] for name in names}
    for name in JAGGED.keys() & columns.keys():
        columns[name] = jagged(columns[name], JAGGED[name])
    return get_tensordict(columns)


class Queue:
    """TransferQueue as the trainer uses it, holding the samples of one step; keys of padding start with "pad"."""

    def __init__(self):
        self.samples, self.written, self.meta = {}, None, None

    def batch(self):
        tags = [{"is_padding": key.startswith("pad")} for key in self.samples]
        return KVBatchMeta(list(self.samples), tags, "train", extra_info={"temperature": 0.6})

    def kv_batch_get(self, keys, partition_id, select_fields):
        assert partition_id == "train"
        return batch_of([self.samples[key] for key in keys], select_fields)

    def kv_batch_put(self, keys, partition_id, fields):
        assert (keys, partition_id) == (list(self.samples), "train")
        self.written = fields
        self.meta = KVBatchMeta(keys, [{} for _ in keys], partition_id, extra_info={"of": "the write"})
        return self.meta


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    for module in ("samples", "trainer"):
        monkeypatch.setattr(f"verl.sdpo.trainer.{module}.tq", queue)
    return queue


@pytest.fixture
def trainer(queue):
    """Behind a queue."""
    trainer = object.__new__(SelfDistillationTrainer)
    trainer.settings = SelfDistillationConfig(**TEMPLATES)
    trainer.reads_every_row = False
    trainer.global_steps = 3
    trainer.tokenizer = Characters()
    trainer.teacher_row_builder = TeacherRowBuilder(
        trainer.settings,
        tokenize_chat=lambda messages, tools: encode(f"<{messages[-1]['content']}>"),
        encode=encode,
        decode=decode,
    )
    trainer.config = OmegaConf.create({"trainer": {"rollout_data_dir": None}})
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 0]})
    return trainer


def test_samples_are_the_batch_in_plain_python(queue):
    queue.samples = {
        "a_b_2_0": {**entry("a_b", "12", 1.0, feedback="well done"), "extra_info": {"tool_selection": ["alarm"]}},
        "a_b_0_0": entry("a_b", "3", 0.5, feedback="the grader broke", grader_error=True),
        # As verl fills a batch up: uid and tokens of its own, the rest from a real sample.
        "pad_1_0": {**entry("a_b", "4", 1.0), "uid": "pad"},
    }
    samples = read_samples(queue.batch(), Characters())
    messages = [{"role": "user", "content": "a_b"}]
    assert [sample.rollout for sample in samples] == [
        Rollout("a_b", 2, messages, "12", 1.0, {"feedback": "well done"}, {"tool_selection": ["alarm"]}),
        Rollout("a_b", 0, messages, "3", 0.5, {"feedback": "the grader broke", "grader_error": True}),
        Rollout("pad", 1, messages, "4", 1.0, is_padding=True),
    ]
    assert [sample.rollout.graded for sample in samples] == [True, False, False]
    assert [decode(sample.prompt_ids.tolist()) for sample in samples] == ["<a_b>"] * 3
    assert [decode(sample.response_ids.tolist()) for sample in samples] == ["12", "3", "4"]


def test_a_batch_with_an_image_is_refused(queue):
    queue.samples = {"q_0_0": entry("q", "x"), "q_1_0": {**entry("q", "y"), "multi_modal_inputs": {"pixels": [0.5]}}}
    with pytest.raises(ValueError, match="the batch has images, video or audio: SDPO supports text only"):
        read_samples(queue.batch(), Characters())


def test_several_outputs_of_one_session_are_refused(queue):
    """verl writes a row for every output of an agent loop, all with the session's question."""
    queue.samples = {key: entry("a_b", "12") for key in ("a_b_0_0", "a_b_1_0", "a_b_1_1")}
    message = (
        r"question a_b, session 1: .* several outputs \(row a_b_1_1\), but SDPO expects one .* one AgentLoopOutput"
    )
    with pytest.raises(ValueError, match=message):
        read_samples(queue.batch(), Characters())


def test_teacher_rows_are_written_into_the_batch_that_goes_on(trainer, queue):
    queue.samples = {"2+2?_1_0": entry("2+2?", "five"), "2+2?_0_0": entry("2+2?", "four", score=1.0)}
    metrics = {}
    batch = trainer._add_teacher_rows(queue.batch(), metrics)
    assert set(queue.written.keys()) == {"teacher_input_ids", "teacher_weight", "reward_weight"}
    rows = queue.written["teacher_input_ids"]
    assert [decode(row.tolist()) for row in rows.unbind()] == ["<2+2?|right: four>five", "<2+2?>four"]
    assert queue.written["teacher_weight"].tolist() == [1.0, 0.0]
    assert queue.written["reward_weight"].tolist() == [1.0, 1.0]
    assert batch is queue.meta
    # In an order of their own, not in that of their completion.
    assert batch.keys == ["2+2?_0_0", "2+2?_1_0"]
    assert batch.extra_info == {"of": "the write", "temperature": 0.6}
    assert metrics["self_distillation/reprompt_sample_fraction"] == 0.5


def test_a_step_without_a_target_is_said(trainer, queue, caplog):
    queue.samples = {"2+2?_0_0": entry("2+2?", "four", score=1.0)}
    with caplog.at_level(logging.WARNING):
        trainer._add_teacher_rows(queue.batch(), {})
    assert "step 3: NO TARGET" in caplog.text


@pytest.mark.parametrize("mode", ["sdpo", "sdpo_colocate_async", "sdpo_separate_async"])
@pytest.mark.parametrize("verls_role", [Role.ActorRollout, Role.ActorRolloutRef])
@pytest.mark.parametrize(
    ("teacher", "lora_rank", "is_needed"),
    [("ema", 0, True), ("frozen", 0, True), ("live", 0, False), ("ema", 8, True), ("frozen", 8, False)],
)
def test_a_teacher_that_is_a_second_model_has_a_reference_model(
    monkeypatch, mode, verls_role, teacher, lora_rank, is_needed
):
    """verl builds a reference model (`verls_role`) for a KL penalty only."""

    def verls(self):
        self.role_worker_mapping, self.mapping = {verls_role: "verl's worker"}, {verls_role: "pool"}

    monkeypatch.setattr(PPOTrainer, "_init_resource_pool_mgr", verls)
    trainer = object.__new__(get_trainer_cls(mode))
    trainer.settings = SelfDistillationConfig(teacher_regularization=teacher)
    trainer.config = {"actor_rollout_ref": {"model": {"lora_rank": lora_rank}}}
    trainer._init_resource_pool_mgr()
    role = Role.ActorRolloutRef if is_needed or verls_role is Role.ActorRolloutRef else Role.ActorRollout
    assert trainer.mapping == {role: "pool"}
    (worker,) = trainer.role_worker_mapping.values()
    assert list(trainer.role_worker_mapping) == [role]
    assert worker.__ray_metadata__.class_name == "SelfDistillationWorker"


def test_a_worker_can_score_with_the_weights_that_generation_has():
    """What verl's separated trainer asks of a worker (trainer_separate_async.py)."""
    assert {"save_model_to_cpu", "restore_model_from_cpu", "clear_cpu_model"} <= set(dir(SelfDistillationWorker))


def test_the_teacher_is_saved_before_verl_deletes_older_checkpoints(monkeypatch):
    saved = []
    monkeypatch.setattr(ActorRolloutRefWorker, "save_checkpoint", lambda self, *args: saved.append("actor"))
    worker = object.__new__(SelfDistillationWorker)
    worker.teacher = SimpleNamespace(save=lambda folder, step: saved.append(("teacher", folder, step)))
    worker.save_checkpoint("folder", None, 7, 1)
    assert saved == [("teacher", "folder", 7), "actor"]


def test_chosen_responses_are_dumped_with_what_the_workers_recorded(trainer, queue, tmp_path, monkeypatch):
    """Two attempts; the worker, here the test, recorded the one that has a target."""
    trainer.config = OmegaConf.create(
        {
            "trainer": {"rollout_data_dir": str(tmp_path)},
            "insight": {"max_samples": 2},
            "data": {"max_response_length": 4},
        }
    )
    trainer.timing_raw = {}
    queue.samples = {"2+2?_1_0": entry("2+2?", "no"), "2+2?_0_0": entry("2+2?", "four", score=1.0)}
    batch = trainer._add_teacher_rows(queue.batch(), {})
    # Rows of the dump go by attempt, those of the batch as they come.
    assert queue.written[ROW].tolist() == [1, 0]
    said = {name: torch.tensor([0.5, -1.0]) for name in dump.PER_TOKEN} | {"position": torch.tensor([0, 1])}
    for model in dump.MODELS:
        said[f"{model}_best"] = torch.tensor([encode("abc"), encode("def")])
        said[f"{model}_best_log_probs"] = torch.tensor([[-0.5, -1.0, -2.0]] * 2)
    torch.save({1: said}, f"{batch.extra_info[FOLDER]}/0.pt")
    monkeypatch.setattr(Characters, "batch_decode", lambda self, rows: [decode(row) for row in rows])
    trainer._end_dump()
    first, second = dump.read(tmp_path / "insight" / "3.parquet")
    assert (first["tokens"], first["log_ratio"], first["has_target"]) == (list("four"), None, False)
    assert (first["response_cut"], second["response_cut"]) == (True, False)
    assert (second["tokens"], second["log_ratio"]) == (["n", "o"], [0.5, -1.0])
    assert second["teacher_best"] == list("abcdef")
    assert (second["demonstration"], second["demonstration_attempt"]) == ("four", 0)
    assert second["teacher_prompt"] == "2+2?|right: four"
    assert [path.name for path in (tmp_path / "insight").iterdir()] == ["3.parquet"]
