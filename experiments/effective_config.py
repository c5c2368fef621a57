"""Print the configurations of a sweep's runs as a table, composed by Hydra as verl does.

bash experiments/generalization/run_sdpo_all.sh --list | python experiments/effective_config.py
"""

import sys

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

import verl  # noqa: F401  lets Hydra find our configurations

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
DISTILLATION = f"{ACTOR}.self_distillation"
COLUMNS = {
    "data": "vars.task",
    "model": "actor_rollout_ref.model.path",
    "loss": f"{ACTOR}.policy_loss.loss_mode",
    "lr": f"{ACTOR}.optim.lr",
    "warm-up": f"{ACTOR}.optim.lr_warmup_steps",
    "prompts": "data.train_batch_size",
    "rollouts": f"{ROLLOUT}.n",
    "mini-batch": f"{ACTOR}.ppo_mini_batch_size",
    "loss weights": f"{ACTOR}.loss_agg_mode",
    "denominator": f"{DISTILLATION}.denominator",
    "alpha": f"{DISTILLATION}.alpha",
    "top-k": f"{DISTILLATION}.distillation_topk",
    "tail": f"{DISTILLATION}.distillation_add_tail",
    "teacher": f"{DISTILLATION}.teacher_regularization",
    "teacher rate": f"{DISTILLATION}.teacher_update_rate",
    "feedback": f"{DISTILLATION}.include_environment_feedback",
    "ratio clip": f"{DISTILLATION}.is_clip",
    "reprompt length": f"{DISTILLATION}.max_reprompt_len",
    "clip high": f"{ACTOR}.clip_ratio_high",
    "std norm": "algorithm.norm_adv_by_std_in_grpo",
    "KL loss": f"{ACTOR}.use_kl_loss",
    "rollout IS": "algorithm.rollout_correction.rollout_is",
    "IS threshold": "algorithm.rollout_correction.rollout_is_threshold",
    "gradient clip": f"{ACTOR}.optim.clip_grad",
    "temperature": f"{ROLLOUT}.temperature",
    "prompt length": "data.max_prompt_length",
    "response length": "data.max_response_length",
    "model length": f"{ROLLOUT}.max_model_len",
    "thinking": "data.apply_chat_template_kwargs.enable_thinking",
    "val samples": f"{ROLLOUT}.val_kwargs.n",
    "val temperature": f"{ROLLOUT}.val_kwargs.temperature",
    "val top-p": f"{ROLLOUT}.val_kwargs.top_p",
    "val first": "trainer.val_before_train",
    "epochs": "trainer.total_epochs",
    "steps": "trainer.total_training_steps",
    "hours": "trainer.max_train_hours",
    "data seed": "data.seed",
    "mini-batch seed": f"{ACTOR}.data_loader_seed",
    "rollout seed": f"{ROLLOUT}.seed",
}


def compose_runs(lines: list[str]) -> dict[str, DictConfig]:
    """Return the configuration of every run by name. `lines` are those of a script's --list."""
    runs = {}
    with initialize_config_module("verl.trainer.config", version_base=None):
        for line in lines:
            name, config, task, *overrides = line.rstrip("\n").split("\t")
            runs[name] = compose(config, [*filter(None, overrides)])
            # These come from the environment in a run.
            runs[name].vars.task, runs[name].trainer.experiment_name = task, name
    return runs


def comparison(runs: dict[str, DictConfig]) -> str:
    """Render the values that all runs share, and a row per run of the others."""
    values = {
        name: {column: str(OmegaConf.select(config, key)) for column, key in COLUMNS.items()}
        for name, config in runs.items()
    }
    rows = list(values.values())
    shared = [column for column in COLUMNS if all(row[column] == rows[0][column] for row in rows)]
    cells = [["run", *(column for column in COLUMNS if column not in shared)]]
    cells += [[name, *(row[column] for column in cells[0][1:])] for name, row in values.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"{len(rows)} runs, all with"]
    lines += [f"  {column:16} {rows[0][column]}" for column in shared]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(comparison(compose_runs(sys.stdin.readlines())))
