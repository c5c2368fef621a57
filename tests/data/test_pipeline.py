"""The commands as a user runs them, from another folder, up to verl's own reader."""

import json
import re
import sys

import pytest

from data.load_dataset import main as load_dataset
from data.preprocess import main as preprocess
from data.records import DataError, write_array, write_lines
from data.show import main as show
from data.sources import catalog
from data.split_tasks import main as split_tasks

from .conftest import REPOSITORY, read_lines, record, script, start
from .hub import write_sciknoweval

SUFFIX = " The solution will be evaluated in a mcq environment."
SCRIPTS = ["load_dataset.py", "split_tasks.py", "split_tests.py", "preprocess.py", "show.py"]


@pytest.fixture(scope="module")
def tokenizer():
    """A real tokenizer with a chat template, trained on the spot: a token per word or punctuation."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
    )
    return tokenizer


def rlhf_dataset(files, tokenizer, tmp_path, **options):
    from omegaconf import OmegaConf

    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"cache_dir": str(tmp_path), "filter_overlong_prompts_workers": None} | options)
    return RLHFDataset([str(file) for file in files], tokenizer, config)


def hub_row(published: dict, domain: str) -> dict:
    """The row of SciKnowEval's own file from which a published record was made."""
    question = published["description"].removesuffix(SUFFIX)
    options = published["prompt"].removeprefix(question + "\n\n").removesuffix("\nPlease reason step by step.")
    texts = re.split(r"(?:^|\n)[A-D]: ", options)[1:]
    return {
        "question": question,
        "choices": {"text": texts, "label": list("ABCD"[: len(texts)])},
        "answerKey": published["answer"],
        "type": f"mcq-{len(texts)}-choices",
        "domain": domain,
        "details": {"level": "L3", "task": "t", "subtask": "s"},
    }


@pytest.mark.parametrize("domain", ["Biology", "Chemistry", "Material"])
def test_the_published_files_come_out_of_the_commands(shared, tmp_path, domain):
    """From SciKnowEval's layout to train.json and test.json: every published record, in the published order."""
    name = domain.lower()
    published = {side: read_lines(shared / "sciknoweval" / name / f"{side}.json") for side in ("train", "test")}
    tasks = sorted(published["train"] + published["test"], key=lambda task: task["idx"])
    source = write_sciknoweval(tmp_path, [hub_row(task, domain) for task in tasks])
    folder = tmp_path / "datasets"
    load_dataset(["--dataset-name", domain, "--output-path", f"{folder}/{name}.json", "--source", str(source)])
    out = f"{folder}/sciknoweval/{name}"
    split_tasks(["--json-path", f"{folder}/{name}.json", "--output-dir", out, "--test-ratio", "0.1", "--seed", "42"])
    for side, wanted in published.items():
        # `embedding` is an always empty column of the published files.
        assert [
            task | {"embedding": [], "public_tests": 0}
            for task in read_lines(tmp_path / f"datasets/sciknoweval/{name}/{side}.json")
        ] == [task | {"public_tests": 0} for task in wanted]


def test_verl_reads_the_parquet_of_every_dataset_together(hub, tmp_path, tokenizer):
    files, records = [], []
    for name, entry in catalog.load_catalog().items():
        if entry.repo is None:
            continue
        folder = tmp_path / entry.family / entry.name.replace("/", "_")
        folder.mkdir(parents=True)
        load_dataset(
            ["--dataset-name", name, "--source", str(hub / entry.repo), "--output-path", str(folder / "test.json")]
        )
        loaded = json.loads((folder / "test.json").read_text())
        write_array(folder / "train.json", [loaded[0] | {"prompt": "Another prompt"}])
        preprocess(["--data-source", str(folder)])
        files.append(folder / "test.parquet")
        records += loaded
    dataset = rlhf_dataset(files, tokenizer, tmp_path, max_prompt_length=4096)
    assert len(dataset) == len(records)
    for row, task in zip(dataset, records, strict=True):
        assert row["raw_prompt"][-1] == {"role": "user", "content": task["prompt"]}
        assert row["data_source"] == task["dataset"] and row["index"] == str(task["idx"])
        assert row["reward_model"]["ground_truth"] == task["tests" if task["kind"] == "code" else "answer"]
        assert tokenizer.apply_chat_template(row["raw_prompt"], tokenize=False).endswith("assistant:")


def test_show_measures_what_verl_filters(tmp_path, tokenizer, capsys):
    tasks = [record(idx=n, system="Given a question", prompt="word " * 10 * n) for n in range(1, 21)]
    write_array(tmp_path / "train.json", tasks)
    write_array(tmp_path / "test.json", [record()])
    preprocess(["--data-source", str(tmp_path)])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    kept = len(rlhf_dataset([tmp_path / "train.parquet"], tokenizer, tmp_path, max_prompt_length=150))
    # A token per word and colon: "system: Given a question", "user:" and "assistant:" are 9, and 9 + 10 n <= 150.
    assert kept == 14
    for name in ("train.parquet", "train.json"):
        capsys.readouterr()
        options = ["--tokenizer", str(tmp_path / "tokenizer"), "--max-prompt-length", "150"]
        show([str(tmp_path / name), *options])
        printed = capsys.readouterr().out
        assert f"{name}: 20 records" in printed
        assert f"over max_prompt_length 150: {1 - kept / 20:.1%}" in printed
        assert "100.0%  sciknoweval (ability mcq)" in printed
        assert "system: Given a question" in printed and printed.rstrip().endswith("assistant:")


def test_show_without_a_tokenizer_counts_characters_and_tests(hub, tmp_path):
    source = hub / "livecodebench/code_generation_lite"
    name = "livecodebench/code_generation_lite-v6"
    load_dataset(["--dataset-name", name, "--source", str(source), "--output-path", str(tmp_path / "lcb.json")])
    done = script("show.py", "lcb.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "prompt length in characters" in done.stdout
    assert "2   66.7%  4 stdin tests" in done.stdout and "1   33.3%  4 functional tests" in done.stdout
    assert "[user]\nYou are an expert programmer" in done.stdout


def test_show_says_what_is_wrong(tmp_path):
    done = script("show.py", "gone.parquet", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: gone.parquet does not exist."
    with pytest.raises(DataError, match="cannot load the tokenizer: "):
        show([str(tmp_path / "gone.parquet"), "--tokenizer", "no/tokenizer"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_starts_from_any_folder_whatever_lies_there(tmp_path, name):
    """Neither may a folder `datasets` hide the package, nor `data` ours."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise ImportError('the wrong data')")
    relative = re.sub("^/", "../" * len(tmp_path.parts[1:]), str(REPOSITORY / "data" / name))
    for safe_path in ("", "1"):
        done = start(sys.executable, relative, "--help", cwd=tmp_path, PYTHONSAFEPATH=safe_path)
        assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


def test_options_may_be_written_with_underscores_as_the_authors_do(hub, tmp_path, capsys):
    source, everything, folder = str(hub / "openai/gsm8k"), f"{tmp_path}/all.json", f"{tmp_path}/split"
    load_dataset(["--dataset_name", "openai/gsm8k", "--source", source, "--output_path", everything, "--num_el", "2"])
    split_tasks(["--json_path", everything, "--output_dir", folder, "--test_ratio", "0.5"])
    preprocess(["--data_source", folder])
    show([f"{folder}/test.parquet", "--max_prompt_length", "10"])
    assert f"{folder}/test.parquet: 1 records" in capsys.readouterr().out


def test_no_script_hides_a_standard_module():
    """Python puts the folder of a script first on the path of everything that the script imports."""
    names = {path.stem for path in (REPOSITORY / "data").glob("*.py")}
    assert {"show", "records"} < names and not names & sys.stdlib_module_names


def test_the_folder_is_not_installed():
    assert '"data' not in (REPOSITORY / "setup.py").read_text()


README = (REPOSITORY / "data" / "README.md").read_text()


def test_the_readme_shows_the_table_that_list_prints(capsys):
    load_dataset(["--list"])
    assert capsys.readouterr().out.strip() in README


def test_every_command_of_the_readme_runs(hub, tmp_path, tokenizer):
    """In the order of the README; only the download and the tokenizer's name are replaced."""
    commands = [line for block in re.findall("```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 12
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for side, number in (("train", 0), ("test", 1)):
        call = json.dumps([{"Action": "getFacts", "Action_Input": "{}"}])
        task = {"prompt": f"Question: {number}?", "idx": number, "system": None, "answer": call, "elo": 1500}
        folder = tmp_path / "SDPO/datasets/tooluse"
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / f"{side}.json", [task])
    for command in commands:
        name = re.search(r"--dataset-name (\S+)", command)
        if name and "--source" not in command:
            command += f" --source {hub / catalog.find(name[1]).repo}"
        command = command.replace("Qwen/Qwen3-8B", "tokenizer").replace("python ", f"{sys.executable} ")
        done = start("bash", "-c", command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for written in (
        "datasets/sciknoweval/chemistry",
        "datasets/lcb_v6",
        "lcb_v6",
        "lcb_v6_singles/q_2",
        "datasets/tooluse",
    ):
        assert (tmp_path / written / "train.parquet").is_file()
