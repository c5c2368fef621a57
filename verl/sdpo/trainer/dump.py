"""Dump, for some responses of every step, of the statistics of student and teacher at each token.

`runs/dump_schema.py` has the columns of the file.
"""

import shutil
from pathlib import Path

import torch
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.config import parse_block
from verl.sdpo.engine.recorder import FOLDER, ROW
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.trainer.hooks import Extension, RunControl, Update
from verl.sdpo.trainer.samples import special_tokens
from verl.utils.debug import marked_timer


class ResponseDump(Extension):
    """Chooses `insight.max_samples` responses of an update, and writes what the workers recorded of them to
    `trainer.rollout_data_dir`. Of several updates in a step, as an asynchronous trainer makes, the last one is kept.
    """

    def __init__(self, config: DictConfig):
        self.settings = parse_block(config)
        self.max_response_length = config.data.max_response_length
        folder = config.trainer.rollout_data_dir
        self.limit = (config.get("insight") or {}).get("max_samples", 0) if folder else 0
        self.folder = Path(folder or "") / dump.SUBFOLDER
        self.chosen: list[int] = []

    def on_start(self, run: RunControl) -> None:
        self.tokenizer = run.tokenizer

    def _parts_folder(self, step: int) -> Path:
        """Return the folder where the workers leave their records of a step."""
        return self.folder / f".{step}.parts"

    def before_update(self, update: Update) -> None:
        if not self.limit:
            return
        samples, parts = update.samples, self._parts_folder(update.step)
        with marked_timer("insight_dump", update.timing):
            self.chosen = dump.choose(samples, self.limit)
            self.records = self._sample_records(update)
            self.response_ids = [samples[i].response_ids.tolist() for i in self.chosen]
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(parents=True)
        update.batch.extra_info[FOLDER] = str(parts.resolve())
        update.columns[ROW] = torch.full((len(samples),), -1)
        update.columns[ROW][self.chosen] = torch.arange(len(self.chosen))

    def _sample_records(self, update: Update) -> list[dict]:
        assert update.rows is not None, "TeacherBatch stands before the dump"
        rollouts = [sample.rollout for sample in update.samples]
        groups, markup = update.rows.groups, special_tokens(self.tokenizer)
        records = []
        for i in self.chosen:
            rollout, prompt = rollouts[i], update.rows.prompts[i]
            record = {
                "step": update.step,
                "uid": rollout.uid,
                "attempt": rollout.attempt,
                "question": dump.chat_text(rollout.messages),
                "teacher_prompt": dump.chat_text(prompt.messages),
                "has_target": prompt.has_context,
                "prompt_truncated": prompt.truncated,
                "demonstration": prompt.demonstration,
                "demonstration_attempt": dump.demonstration_attempt(rollout, prompt, groups, markup),
                "response": rollout.response,
                "feedback": rollout.feedback,
                "score": rollout.score,
                "solved": self.settings.grading.is_success(rollout.score),
                "graded": rollout.graded,
                "response_cut": len(update.samples[i].response_ids) >= self.max_response_length,
            }
            records.append(record)
        return records

    def after_step(self, step: int, batch: KVBatchMeta, metrics: dict) -> None:
        """Join the workers' records, and write the file of the step."""
        if not self.chosen:
            return
        with marked_timer("timing_s/insight_dump", metrics):
            recorded: dict[int, dict[str, torch.Tensor]] = {}
            for part in self._parts_folder(step).glob("*.pt"):
                recorded |= torch.load(part)
            shutil.rmtree(self._parts_folder(step))
            ids = {i for row in self.response_ids for i in row}
            for row in recorded.values():
                ids |= {i for model in dump.MODELS for i in row[f"{model}_best"].flatten().tolist()}
            vocabulary = dict(zip(ids, self.tokenizer.batch_decode([[i] for i in ids]), strict=True))
            for number, record in enumerate(self.records):
                response = self.response_ids[number]
                record["tokens"] = [vocabulary[i] for i in response]
                record |= dump.token_columns(recorded.get(number), len(response), vocabulary)
            dump.write(self.folder / f"{step}.parquet", self.records)
        self.chosen = []
