"""What the launcher submits, skips and refuses. Slurm is fake, the scripts are the real ones."""

import re
import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.experiments.conftest import DATASETS, SCRIPTS

SITE = """
SITE_ACCOUNT=project1
SITE_PARTITION=fast
SITE_TIME=12:00:00
SITE_MEMORY=400G
SITE_CPUS=64
SITE_GPUS=4
SITE_STOP_SECONDS=900
SITE_LOG_DIR='/logs/of me'
SITE_SBATCH_FLAGS=(--exclusive --constraint=gh200)
SITE_SRUN_FLAGS=(--container-image=/images/sdpo.sqsh)
SITE_SETUP='source /venv/bin/activate'
SITE_PYTHON=python3.11
SITE_OVERRIDES=(actor_rollout_ref.rollout.gpu_memory_utilization=0.5)
SDPO_LOG_DIR=/scratch/logs
export SDPO_CKPT_DIR=/scratch/checkpoints
"""
NAME = "SDPO-rich-lcb_v6-Qwen3-8B-seed0"


def names(output: str) -> list[str]:
    return re.findall(r"EXPERIMENT=(\S+)", output)


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_prints_what_is_submitted_and_changes_nothing(machine, script):
    machine.add_slurm("SITE_PARTITION=fast\n")
    machine.add_data(*DATASETS)
    before = machine.files()
    dry = machine.run(script, "--dry-run")
    assert (dry.returncode, machine.files()) == (0, before)
    assert machine.submitted() == []
    assert len(set(names(dry.stdout))) == SCRIPTS[script]

    real = machine.run(script)
    assert (real.returncode, real.stdout) == (0, "")
    assert real.stderr.endswith(f"# {SCRIPTS[script]} submitted, 0 skipped, 0 failed\n")
    jobs = machine.submitted()
    assert "".join(f"# ----- {names(job)[0]}\n{job}" for job in jobs) == dry.stdout


def test_job_script_holds_the_site_and_the_command(machine):
    machine.add_slurm(SITE)
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", "trainer.total_epochs=2", "--", "+a=b c", SEEDS="0")
    repo = str(machine.repo).replace(" ", "\\ ")
    setup = "$'set -e\\nsource /venv/bin/activate\\nexec \"$@\"'"
    assert (
        run.stdout
        == f"""\
# ----- {NAME}
#!/usr/bin/env bash
#SBATCH --job-name={NAME}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --account=project1
#SBATCH --partition=fast
#SBATCH --time=12:00:00
#SBATCH --mem=400G
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=4
#SBATCH --output="/logs/of me/slurm-%j.log"
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@900
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --constraint=gh200
unset RAY_ADDRESS
export SDPO_DIR={repo}
export SDPO_LOG_DIR=/scratch/logs
export SDPO_CKPT_DIR=/scratch/checkpoints
export RUN_DIR=/scratch/logs/{NAME}
export RUN_STOP_DIR=/scratch/checkpoints/{NAME}
export RUN_STOP_SECONDS=900
export WANDB_RUN_GROUP=SDPO-rich-feedback
exec \\
    bash \\
    {repo}/experiments/job.sh \\
    srun \\
    --ntasks=1 \\
    --cpus-per-task=64 \\
    --container-image=/images/sdpo.sqsh \\
    bash \\
    -c \\
    {setup} \\
    setup \\
    env \\
    EXPERIMENT={NAME} \\
    TASK=datasets/lcb_v6 \\
    PYTHON=python3.11 \\
    bash \\
    {repo}/experiments/train.sh \\
    sdpo \\
    trainer.n_gpus_per_node=4 \\
    ray_kwargs.ray_init.num_cpus=64 \\
    actor_rollout_ref.rollout.gpu_memory_utilization=0.5 \\
    actor_rollout_ref.model.path=Qwen/Qwen3-8B \\
    vars.seed=0 \\
    actor_rollout_ref.actor.optim.lr=1e-6 \\
    actor_rollout_ref.actor.optim.lr_warmup_steps=0 \\
    actor_rollout_ref.rollout.val_kwargs.n=4 \\
    trainer.total_training_steps=80 \\
    actor_rollout_ref.actor.ppo_mini_batch_size=1 \\
    actor_rollout_ref.actor.self_distillation.alpha=1.0 \\
    actor_rollout_ref.actor.self_distillation.distillation_topk=20 \\
    actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.01 \\
    vars.task=datasets/lcb_v6 \\
    trainer.total_epochs=2 \\
    +a=b\\ c
"""
    )


def test_what_the_site_leaves_out_is_not_passed(machine):
    machine.add_slurm()
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", SEEDS="0")
    flags = re.findall(r"^#SBATCH --([a-z-]+)", run.stdout, re.MULTILINE)
    assert flags == ["job-name", "nodes", "ntasks", "output", "open-mode", "signal", "requeue"]
    assert f'--output="{machine.runs / NAME}/slurm-%j.log"' in run.stdout
    assert "srun" not in run.stdout


def test_local_dry_run_is_a_script_without_slurm(machine):
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", "--local", SEEDS="0")
    assert "SBATCH" not in run.stdout
    assert run.stderr.endswith("# 1 would be run, 0 skipped, 0 failed\n")
    words = shlex.split(run.stdout[run.stdout.index("exec") :].replace("\\\n", ""))
    assert words[:4] == ["exec", "bash", str(machine.repo / "experiments/job.sh"), "env"]


def test_swept_lists_come_from_the_environment(machine):
    run = machine.run(
        "generalization/run_baseline_grpo_all.sh",
        "--dry-run",
        SEEDS="3 4",
        DATASETS="datasets/tooluse",
        MODELS="me/tiny",
    )
    assert names(run.stdout) == [
        f"GRPO-{arm}lr{lr}-tooluse-tiny-seed{seed}"
        for arm in ("", "onpolicy-")
        for seed in (3, 4)
        for lr in ("1e-5", "1e-6")
    ]
    assert re.findall(r"vars.seed=(\d)", run.stdout) == ["3", "3", "4", "4"] * 2


def test_a_path_may_hold_what_hydras_grammar_uses(machine):
    model = "/models/it's(1),a=b#[c]é/tiny"
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", "--local", MODELS=model, SEEDS="0")
    script = re.sub("^exec", r"printf '%s\\n'", run.stdout[run.stdout.index("exec") :])
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    (override,) = (word for word in words if word.startswith("actor_rollout_ref.model.path="))
    assert OverridesParser.create().parse_override(override).value() == model


def test_list_has_a_line_per_training(machine):
    run = machine.run("rich_feedback/run_baseline_grpo.sh", "--list", "a=1", SEEDS="0 1")
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        [f"GRPO-rich-lcb_v6-Qwen3-8B-seed{seed}", "baseline_grpo", "datasets/lcb_v6"] for seed in (0, 1)
    ]
    assert [line[4] for line in lines] == ["vars.seed=0", "vars.seed=1"]
    assert all(line[-1] == "a=1" for line in lines)
    assert run.stderr == ""


def test_help_shows_options_and_recipe(machine):
    run = machine.run("rich_feedback/run_sdpo.sh", "--help")
    assert run.returncode == 0
    assert "--dry-run" in run.stdout
    assert machine.run("launcher.sh", "--help").stdout in run.stdout
    assert "recipes/rich_feedback_sdpo.yaml\n# SDPO with rich feedback (paper, section 4, Table 12)" in run.stdout


# What is refused, in one sentence


def test_without_slurm(machine):
    run = machine.run("rich_feedback/run_sdpo.sh")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "There is no Slurm here (sbatch was not found): add --local to run on this machine, or --dry-run to look.\n"
    )


def test_slurm_without_site_file(machine):
    machine.add_slurm()
    (machine.repo / "experiments" / "site.env").unlink()
    run = machine.run("rich_feedback/run_sdpo.sh")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "No site file: copy experiments/site.example.env to experiments/site.env and edit it, or name one with --site "
        "or SDPO_SITE.\n"
    )


def test_site_file_that_is_not_there(machine):
    for arguments, environment in ((["--site", "/no/site"], {}), ([], {"SDPO_SITE": "/no/site"})):
        run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", *arguments, **environment)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith("The site file '/no/site' cannot be read.")


def test_named_site_file_wins(machine, tmp_path):
    machine.add_slurm("SITE_ACCOUNT=default")
    (tmp_path / "mine.env").write_text("SITE_ACCOUNT=mine")
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", "--site", "../mine.env")
    assert "--account=mine" in run.stdout


def test_unknown_argument(machine):
    run = machine.run("rich_feedback/run_sdpo.sh", "--dryrun")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Unknown argument '--dryrun'. --help lists the options")


def test_unknown_recipe(machine):
    run = machine.run("launcher.sh", "rich_feedbck", "--dry-run", "--local")
    assert (run.returncode, run.stdout) == (1, "")
    assert re.match(r"There is no recipe .*/recipes/rich_feedbck.yaml. Known are ablation_.*, ttt_sdpo", run.stderr)
    run = machine.run("launcher.sh", "--dry-run")
    assert (run.returncode, run.stderr.startswith("Which recipe?")) == (1, True)


def test_no_python_that_can_read_recipes(machine):
    machine.command("python", "exit 1")
    machine.command("python3", "exit 1")
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", "--local", PYTHON="no-such-python")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "No Python with OmegaConf, which reads the recipes; tried no-such-python python python3. Set PYTHON to one in "
        "which verl is installed, or do `pip install omegaconf`.\n"
    )


def test_missing_data_is_said_before_anything_is_asked_for(machine):
    machine.add_slurm()
    machine.add_data(*(set(DATASETS) - {"datasets/tooluse"}))
    dry = machine.run("generalization/run_sdpo_all.sh", "--dry-run")
    real = machine.run("generalization/run_sdpo_all.sh")
    message = f"there is no {machine.repo}/datasets/tooluse/train.parquet. data/README.md says how to make it"
    assert dry.returncode == 0
    assert real.returncode == 1
    assert dry.stderr.count(message) == real.stderr.count(message) == 6
    assert len(machine.submitted()) == 24
    assert "# 24 submitted, 0 skipped, 6 failed SDPO-tooluse-Qwen3-8B" in real.stderr


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            "a/tiny b/tiny",
            "Two runs are called SDPO-rich-lcb_v6-tiny-seed0: a swept value is missing from the name.\n",
        ),
        (
            "a/t(1)",
            "The run name 'SDPO-rich-lcb_v6-t(1)-seed0' is not 1 to 200 letters, digits, dots, dashes and "
            "underscores.\n",
        ),
    ],
)
def test_names_that_would_mix_up_runs(machine, models, message):
    run = machine.run("rich_feedback/run_sdpo.sh", "--local", "--dry-run", MODELS=models, SEEDS="0")
    assert run.returncode == 1
    assert run.stderr == message


@pytest.mark.parametrize("variable", ["SDPO_LOG_DIR", "SDPO_CKPT_DIR"])
def test_folder_that_cannot_be_made_is_said_before_anything_is_asked_for(machine, variable):
    machine.add_slurm()
    machine.add_data(*DATASETS)
    run = machine.run("rich_feedback/run_sdpo.sh", SEEDS="0", **{variable: "/dev/null/folder"})
    assert run.returncode == 1
    assert "/dev/null" in run.stderr.splitlines()[0]
    assert run.stderr.splitlines()[1].startswith("Set SDPO_LOG_DIR and SDPO_CKPT_DIR (vars.log_dir, vars.ckpt_dir) to")
    assert machine.submitted() == []


# Runs that are not started again


def test_complete_and_queued_runs_are_skipped(machine):
    machine.add_slurm()
    machine.add_data(*DATASETS)
    sweep = ("rich_feedback/run_sdpo.sh",)
    seeds = {"SEEDS": "0 1 2"}
    assert machine.run(*sweep, **seeds).returncode == 0
    assert len(machine.submitted()) == 3
    done, queued = (machine.runs / f"{NAME[:-1]}{seed}" for seed in (0, 1))
    (done / "complete").touch()
    (machine.fake / f"queued.{1001}").touch()

    again = machine.run(*sweep, **seeds)
    assert f"# {done.name}: complete, skipped" in again.stderr
    assert f"# {queued.name}: already queued or running as job 1001;cluster, skipped" in again.stderr
    assert again.stderr.endswith("# 1 submitted, 2 skipped, 0 failed\n")
    assert len(machine.submitted()) == 4


def test_refused_submission_fails_the_sweep(machine):
    machine.add_slurm()
    machine.add_data(*DATASETS)
    machine.command("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    run = machine.run("rich_feedback/run_sdpo.sh", SEEDS="0")
    assert run.returncode == 1
    assert "invalid account" in run.stderr
    assert f"0 submitted, 0 skipped, 1 failed {NAME}" in run.stderr


# Where things are


@pytest.mark.parametrize(
    ("line", "environment", "folder"),
    [
        (None, {}, "{repo}"),
        (None, {"SDPO_DIR": "/usr"}, "/usr"),
        (None, {"SDPO_DIR": "."}, "{elsewhere}"),
        ("dir: /usr  # of everyone", {"SDPO_DIR": "/var"}, "/usr"),
        ("dir: ${oc.env:SDPO_DIR,/usr}", {}, "/usr"),
        ("dir: ${oc.env:SDPO_DIR,/usr}", {"SDPO_DIR": "/var"}, "/var"),
        ("dir: ${oc.env:FAKE}", {}, "{fake}"),
    ],
)
def test_paths_are_those_of_user_yaml(machine, line, environment, folder):
    if line:
        text = machine.user_yaml.read_text()
        machine.user_yaml.write_text(re.sub(r"\bdir: .*", line, text, count=1))
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", **environment)
    paths = dict(line.split("=", 1) for line in shlex.split(run.stdout, comments=True) if line.startswith("SDPO_"))
    folder = folder.format(repo=machine.repo, elsewhere=machine.elsewhere, fake=machine.fake)
    assert paths == {
        "SDPO_DIR": folder,
        "SDPO_LOG_DIR": f"{folder}/outputs/logs",
        "SDPO_CKPT_DIR": f"{folder}/outputs/checkpoints",
    }


def test_paths_may_refer_to_each_other(machine):
    text = machine.user_yaml.read_text().replace("${vars.dir}/outputs/logs", "${vars.dir}/my logs")
    machine.user_yaml.write_text(re.sub(r"ckpt_dir: .*", "ckpt_dir: ${vars.dir}/models", text))
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", SDPO_DIR="/usr", SDPO_CKPT_DIR="/var")
    assert "export SDPO_LOG_DIR=/usr/my\\ logs\nexport SDPO_CKPT_DIR=/usr/models\n" in run.stdout


def test_paths_that_do_not_exist_or_cannot_be_read(machine):
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run", SDPO_DIR="/no/folder")
    assert (run.returncode, run.stderr.splitlines()[-1]) == (
        1,
        "vars.dir (SDPO_DIR) is '/no/folder': there is no such folder.",
    )
    machine.user_yaml.write_text("vars:\n  dir: ${oc.env:NOWHERE}/sdpo\n")
    run = machine.run("rich_feedback/run_sdpo.sh", "--dry-run")
    assert run.returncode == 1
    assert "Environment variable 'NOWHERE' not found" in run.stderr
    assert "Traceback" not in run.stderr


def test_without_an_answer_of_the_queue_nothing_is_submitted(machine):
    machine.add_slurm()
    machine.add_data(*DATASETS)
    machine.command("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    # Nobody is asked about a first job.
    assert machine.run("rich_feedback/run_sdpo.sh", SEEDS="0").returncode == 0
    again = machine.run("rich_feedback/run_sdpo.sh", SEEDS="0")
    assert again.returncode != 0
    assert "squeue does not say which jobs are queued" in again.stderr
    assert len(machine.submitted()) == 1
