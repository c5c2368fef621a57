"""verl leaves out the rows that a chat template refuses: each way to fail, and what verl's own filter does then."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from tests.e2e.tiny import build_model
from verl.sdpo.preflight.chat_template import check_chat_template, load_tokenizer, read_kinds, template_problem
from verl.utils.dataset.rl_dataset import RLHFDataset

SYSTEM, USER, ASSISTANT = ({"role": role, "content": "Hm."} for role in ("system", "user", "assistant"))
# As in the templates of Gemma and of Mistral.
NO_SYSTEM = (
    "{{ raise_exception('System role not supported') if messages[0]['role'] == 'system' }}{{ messages[0].content }}"
)
ALTERNATE = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ message['content'] }}{% endfor %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build_model(tmp_path_factory.mktemp("model")))


def write(path, *chats, source="sciknoweval", **options):
    rows = [{"data_source": source, "prompt": chat, "reward_model": {"ground_truth": "A"}} for chat in chats]
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def configuration(model, train, val, template=None):
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sdpo", [f"data.train_files={train}", f"data.val_files={val}"])
    config.actor_rollout_ref.model.path = model
    config.actor_rollout_ref.model.custom_chat_template = template
    OmegaConf.resolve(config)
    return config


def test_files_that_the_template_takes(tmp_path, model):
    train = write(tmp_path / "train.parquet", [SYSTEM, USER], [USER], [USER, ASSISTANT, USER])
    check_chat_template(configuration(model, train, train))


@pytest.mark.parametrize(
    ("template", "chats", "says"),
    [
        (NO_SYSTEM, [[USER], [SYSTEM, USER], [SYSTEM, USER]], "row 1 .*roles system, user.*System role not supported"),
        (ALTERNATE, [[USER], [USER, ASSISTANT, USER], [USER, USER]], "row 2 .*roles user, user.*must alternate"),
    ],
)
def test_a_refusal_names_file_row_source_and_the_templates_words(tmp_path, model, template, chats, says):
    good, bad = write(tmp_path / "train.parquet", [USER]), write(tmp_path / "test.parquet", *chats)
    config = configuration(model, good, bad, template)
    with pytest.raises(ValueError, match=rf"data\.val_files: {bad}.*{says}") as refusal:
        check_chat_template(config)
    assert "data_source sciknoweval" in str(refusal.value) and "\n" not in str(refusal.value)
    assert f"all {sum(chat == chats[-1] for chat in chats)} rows with these roles" in str(refusal.value)


def test_verl_leaves_out_what_is_refused(tmp_path, model):
    file = write(tmp_path / "x.parquet", [USER], [SYSTEM, USER], [SYSTEM, USER])
    config = configuration(model, file, file, NO_SYSTEM)
    options = {"cache_dir": str(tmp_path / "cache"), "filter_overlong_prompts_workers": None}
    data = OmegaConf.create({**config.data, **options})
    dataset = RLHFDataset([str(file)], load_tokenizer(config.actor_rollout_ref.model), data)
    kinds = read_kinds(file, "prompt")
    assert len(dataset) == kinds[("user",)].count == 1


def test_a_tokenizer_without_a_template_takes_nothing(tmp_path, model):
    file = write(tmp_path / "x.parquet", [USER])
    config = configuration(model, file, file)
    tokenizer = load_tokenizer(config.actor_rollout_ref.model)
    tokenizer.chat_template = None
    assert "chat_template is not set" in template_problem(file, config.data, tokenizer)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"prompt": ["2 + 2?"]}, "'prompt' is string, expected a list of messages with role and content"),
        ({"prompt": [["2 + 2?"]]}, "expected a list of messages with role and content"),
        ({"prompt": [[{"content": "2 + 2?"}]]}, "expected a list of messages with role and content"),
        ({"prompt": [[USER], []]}, "row 1: no message"),
        ({"prompt": [[USER], [USER], None]}, "row 2: no message"),
        ({"question": [[USER]]}, r"no column 'prompt' \(data.prompt_key\)"),
    ],
)
def test_the_form_of_the_messages_is_looked_at_without_a_tokenizer(tmp_path, column, says):
    pq.write_table(pa.table(column), tmp_path / "x.parquet")
    config = configuration("some/model-that-is-not-here", tmp_path / "x.parquet", tmp_path / "x.parquet")
    assert load_tokenizer(config.actor_rollout_ref.model) is None
    with pytest.raises(ValueError, match=rf"data\.train_files: {tmp_path}/x\.parquet.*{says}"):
        check_chat_template(config)


@pytest.mark.parametrize("list_type", [pa.list_, pa.large_list])
def test_every_sequence_of_roles_is_found_in_every_row_group(tmp_path, list_type):
    chats = [[USER]] * 5 + [[SYSTEM, USER]] * 2 + [[USER, ASSISTANT, USER]] + [[USER]] * 3
    contents = [[message | {"content": f"row {row}"} for message in chat] for row, chat in enumerate(chats)]
    form = list_type(pa.struct({"role": pa.large_string(), "content": pa.large_string()}))
    table = pa.table({"prompt": pa.array(contents, form)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    kinds = read_kinds(tmp_path / "x.parquet", "prompt")
    assert {roles: (kind.row, kind.count) for roles, kind in kinds.items()} == {
        ("user",): (0, 8),
        ("system", "user"): (5, 2),
        ("user", "assistant", "user"): (7, 1),
    }
    assert all(kind.messages[0]["content"] == f"row {kind.row}" for kind in kinds.values())


def test_runs_that_read_their_data_themselves_are_left_alone(tmp_path, model):
    (tmp_path / "x.parquet").write_text("not looked at")
    config = configuration(model, tmp_path / "x.parquet", tmp_path / "x.parquet")
    config.data.custom_cls.path = "mine.py"
    check_chat_template(config)
    config = configuration(model, tmp_path / "absent.parquet", "s3://bucket/x.parquet")
    check_chat_template(config)
