"""Of some responses of every step, what the teacher said of each token (runs/dump_schema.py has the file's columns)."""

import shutil
from pathlib import Path

import torch
from transfer_queue import KVBatchMeta

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.engine.recorder import FOLDER, ROW
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.teacher_rows import Sample, TeacherRowBuilder, TeacherRows
from verl.sdpo.trainer.mixin import Trainer
from verl.utils.debug import marked_timer


class DumpMixin(Trainer):
    """Over a trainer that makes teacher rows: `_begin_dump` before the actor is updated, `_end_dump` after it."""

    settings: SelfDistillationConfig
    teacher_row_builder: TeacherRowBuilder

    @property
    def _dump_folder(self) -> Path:
        return Path(self.config.trainer.rollout_data_dir) / dump.SUBFOLDER

    @property
    def _parts_folder(self) -> Path:
        """Where the workers leave what they recorded of the present step."""
        return self._dump_folder / f".{self.global_steps}.parts"

    def _begin_dump(self, batch: KVBatchMeta, samples: list[Sample], rows: TeacherRows) -> dict[str, torch.Tensor]:
        """Choose what is dumped, and tell the workers: the field that their batch needs, if any."""
        self._dumped: list[int] = []
        limit = (self.config.get("insight") or {}).get("max_samples", 0)
        if not self.config.trainer.rollout_data_dir or not limit:
            return {}
        with marked_timer("insight_dump", self.timing_raw):
            self._dumped = dump.choose(samples, limit)
            self._records = self._sample_records(samples, rows)
            self._response_ids = [samples[i].response_ids.tolist() for i in self._dumped]
            shutil.rmtree(self._parts_folder, ignore_errors=True)
            self._parts_folder.mkdir(parents=True)
        batch.extra_info[FOLDER] = str(self._parts_folder.resolve())
        numbers = torch.full((len(samples),), -1)
        numbers[self._dumped] = torch.arange(len(self._dumped))
        return {ROW: numbers}

    def _sample_records(self, samples: list[Sample], rows: TeacherRows) -> list[dict]:
        rollouts, markup = [sample.rollout for sample in samples], self.teacher_row_builder.markup
        records = []
        for i in self._dumped:
            rollout, prompt = rollouts[i], rows.prompts[i]
            record = {
                "step": self.global_steps,
                "uid": rollout.uid,
                "attempt": rollout.attempt,
                "question": dump.chat_text(rollout.messages),
                "teacher_prompt": dump.chat_text(prompt.messages),
                "has_target": prompt.has_context,
                "prompt_truncated": prompt.truncated,
                "demonstration": prompt.demonstration,
                "demonstration_attempt": dump.demonstration_attempt(rollout, prompt, rows.groups, markup),
                "response": rollout.response,
                "feedback": rollout.feedback,
                "score": rollout.score,
                "solved": self.settings.grading.is_success(rollout.score),
                "graded": rollout.graded,
                "response_cut": len(samples[i].response_ids) >= self.config.data.max_response_length,
            }
            records.append(record)
        return records

    def _end_dump(self) -> None:
        """Join what the workers recorded, and write the step's file."""
        if not self._dumped:
            return
        with marked_timer("insight_dump", self.timing_raw):
            said: dict[int, dict[str, torch.Tensor]] = {}
            for part in self._parts_folder.glob("*.pt"):
                said |= torch.load(part)
            shutil.rmtree(self._parts_folder)
            ids = {i for row in self._response_ids for i in row}
            for row in said.values():
                ids |= {i for model in dump.MODELS for i in row[f"{model}_best"].flatten().tolist()}
            vocabulary = dict(zip(ids, self.tokenizer.batch_decode([[i] for i in ids]), strict=True))
            for number, record in enumerate(self._records):
                response = self._response_ids[number]
                record["tokens"] = [vocabulary[i] for i in response]
                record |= dump.token_columns(said.get(number), len(response), vocabulary)
            dump.write(self._dump_folder / f"{self.global_steps}.parquet", self._records)
