"""Test-time SDPO: the log of attempts and the end of a training on one question."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl.sdpo.checks import BLOCK, is_positive_int, refusal
from verl.sdpo.config import LOSS_MODE, TEST_TIME_MODE
from verl.sdpo.runs.identity import trains
from verl.sdpo.test_time.grading import Question, read_question
from verl.sdpo.test_time.log import AttemptLog, check_log, result_fields

# The reward function of such a training, which calls another one for the public and for the hidden tests.
CONFIRMING = "pkg://verl.sdpo.test_time.grading"


@dataclass(frozen=True)
class TestTimeConfig:
    """The block `test_time` of `sdpo_ttt.yaml`."""

    # For pytest, which takes a class of this name for tests.
    __test__ = False

    budget: int
    """Attempts after which to stop. Attempts of the last batch beyond it are not counted."""

    log: str
    """Path of the log of attempts, from which an interrupted search goes on."""

    def __post_init__(self):
        if not is_positive_int(self.budget):
            raise refusal({"test_time.budget": repr(self.budget)}, "expected a whole number of attempts >= 1")


class QuestionSearch:
    """Search for a solution of one question, over at the first confirmed attempt or when the budget is used up.

    Args:
        config: the Hydra tree that `verl.trainer.main_ppo` composed, with a block `test_time`.

    Raises:
        ValueError: the question's folder or the log cannot be used; see `read_question` and `AttemptLog`.
    """

    def __init__(self, config: DictConfig):
        question = read_question(Path(config["data"]["train_files"]), Path(config["data"]["val_files"]))
        self.log = AttemptLog(Path(config["test_time"]["log"]), run_config(config, question))

    @property
    def over(self) -> bool:
        return self.log.left == 0

    def resume(self, step: int) -> str | None:
        """Continue from the checkpoint of `step`, and return a message to the user, if any.

        Attempts of later steps are made again by other weights, so they are moved out of the log.

        Raises:
            ValueError: the log lacks attempts that the checkpoint was trained on.
        """
        if self.over:
            return None
        last = self.log.records[-1]["step"] if self.log.records else 0
        if last < step:
            raise ValueError(
                f"{self.log.path} ends with step {last}, but the checkpoint was made after step {step}: attempts are "
                "missing. Restore the log, or start over with another trainer.experiment_name."
            )
        moved = self.log.keep(sum(record["step"] <= step for record in self.log.records))
        note = f"moved {moved} attempts after step {step} out of {self.log.path}: they are made again"
        return note if moved else None

    def record(self, step: int, response: str, tokens: tuple[int, int], result: Mapping[str, Any]) -> None:
        """Log one attempt, unless the search is over: further attempts of a batch are not counted.

        Args:
            tokens: lengths of the prompt and the response.
            result: returned by `grading.grade`.
        """
        if not self.over:
            self.log.append(
                step=step,
                response=response,
                prompt_tokens=tokens[0],
                response_tokens=tokens[1],
                **result_fields(dict(result)),
            )


def run_config(config: DictConfig, question: Question) -> dict[str, Any]:
    """Return the header of the log: everything that a resumed run must have in common with the run it continues."""
    actor, rollout = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["rollout"]
    reward = config["reward"]["custom_reward_function"]["reward_kwargs"]
    block: Any = OmegaConf.to_container(actor["self_distillation"], resolve=True)
    return {
        "method": "sdpo",
        **question.header(),
        "model": config["actor_rollout_ref"]["model"]["path"],
        "budget": config["test_time"]["budget"],
        "seed": config["vars"]["seed"],
        "rollouts": rollout["n"],
        "temperature": rollout["temperature"],
        "top_p": rollout["top_p"],
        "max_response": config["data"]["max_response_length"],
        "lr": actor["optim"]["lr"],
        "self_distillation": {k: v for k, v in block.items() if trains(f"{BLOCK}.{k}")},
        "reward": reward["grader"],
        "reward_kwargs": OmegaConf.to_container(reward["options"], resolve=True),
    }


def check(config: DictConfig) -> None:
    """Refuse settings with which a search on one question cannot work. Reads the log if there is one, writes nothing.

    Files that are missing are left to the check of the data.

    Raises:
        ValueError: naming the key, its value and what to set instead.
    """
    mode = config["trainer"]["v1"]["trainer_mode"]
    if "test_time" not in config:
        if mode == TEST_TIME_MODE:
            raise refusal(
                {"trainer.v1.trainer_mode": mode}, "there is no block test_time", "Use --config-name sdpo_ttt."
            )
        return
    TestTimeConfig(**config["test_time"])
    loss_mode = config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"]
    reward = config["reward"]["custom_reward_function"]["path"]
    for key, value, expected in (
        ("actor_rollout_ref.actor.policy_loss.loss_mode", loss_mode, LOSS_MODE),
        ("trainer.v1.trainer_mode", mode, TEST_TIME_MODE),
        ("data.train_batch_size", config["data"]["train_batch_size"], 1),
        ("reward.custom_reward_function.path", reward, CONFIRMING),
    ):
        if value != expected:
            raise refusal(
                {key: value}, "the block test_time needs another", f"Set it to {expected}, or remove the block."
            )
    rounds = config["data"].get("refill_until_target", 0)
    if rounds:
        raise refusal(
            {"data.refill_until_target": rounds},
            "attempts that are thrown away would be missing from the log and the budget of the block test_time",
            "Set it to 0.",
        )
    files = {key: config["data"][key] for key in ("train_files", "val_files")}
    for key, value in files.items():
        if not isinstance(value, str):
            raise refusal({f"data.{key}": value}, "the block test_time is for one question", "Name its one file.")
    if all(Path(file).is_file() for file in files.values()):
        question = read_question(Path(files["train_files"]), Path(files["val_files"]))
        check_log(Path(config["test_time"]["log"]), run_config(config, question))
