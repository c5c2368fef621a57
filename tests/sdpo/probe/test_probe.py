"""The probe's measures on answers and distributions that are given, and its path on a sampler that is scripted."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.sdpo.test_teacher_rows import TEMPLATES, decode, encode
from verl.sdpo.config import SelfDistillationConfig, defaults
from verl.sdpo.context import Grading
from verl.sdpo.probe import run as probe_run
from verl.sdpo.probe.__main__ import contexts_of, parse_arguments
from verl.sdpo.probe.measures import (
    CONTEXTS,
    Answer,
    Row,
    TokenScores,
    context_table,
    interval,
    summarise,
    to_json,
    verdict,
)
from verl.sdpo.probe.models import Scorer, TransformersSampler
from verl.sdpo.probe.run import Grader, Probe, Size, read_questions, to_answer
from verl.sdpo.teacher_rows import TeacherRowBuilder


def token_scores(divergence, differs=None, belief=0.5, in_topk=True) -> TokenScores:
    size = len(divergence)
    differs = [False] * size if differs is None else differs
    return TokenScores(
        np.array(divergence, dtype=float),
        np.array(differs),
        np.full(size, belief),
        np.full(size, in_topk),
    )


ATTEMPTS = [Answer(0, True, "1"), Answer(0, False, "0 a"), Answer(1, False, "0 b"), Answer(1, False, "0 c")]


def row(context="configured", gain=(0.3, 0.1, 0.5), coverage=1.0, differs=0.2, rare=0.0, outside=0.0) -> Row:
    from verl.sdpo.probe.measures import Interval

    some = Interval(0.6, 0.5, 0.7)
    return Row(context, 10, 5, coverage, 0.3, some, Interval(*gain), 0.1, 0.2, (0.5, 0.3, 0.2), differs, rare, outside)


def test_an_interval_is_over_questions():
    """Two questions, all 0 and all 1: a resample is one of 0, 1/2, 1, however many answers there are."""
    found = interval([0.0] * 50 + [1.0] * 50, [0] * 50 + [1] * 50)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    tight = interval([0.0, 1.0] * 50, [number for number in range(50) for _ in range(2)])
    assert (tight.mean, tight.low, tight.high) == (0.5, 0.5, 0.5)


def test_a_row_compares_at_the_same_questions():
    """By hand: the teacher answers question 0 once (right) and question 1 twice (one right); the student's rates there
    are 1/2, 0, 0."""
    pairs = [(1, Answer(0, True, "1")), (2, Answer(1, True, "1")), (3, Answer(1, False, "0 c"))]
    scores = [token_scores([0.0, 0.0, 3.0]), token_scores([1.0, 1.0, 1.0]), token_scores([0.0, 0.0, 0.0])]
    found = summarise("x", attempts=ATTEMPTS, pairs=pairs, scores=scores, coverage=0.75)
    assert (found.answers, found.questions, found.coverage) == (3, 2, 0.75)
    assert found.student == pytest.approx(1 / 6)
    assert found.teacher.mean == pytest.approx(2 / 3)
    assert found.gain.mean == pytest.approx(2 / 3 - 1 / 6)
    assert found.same == pytest.approx(1 / 3)
    assert found.divergence == pytest.approx(6 / 9)
    assert found.thirds == pytest.approx((1 / 6, 1 / 6, 4 / 6))


def test_tokens_that_differ_are_counted_among_themselves():
    scores = [token_scores([0.1] * 4, [True, True, False, False], belief=0.005, in_topk=False)]
    found = summarise("x", attempts=ATTEMPTS, pairs=[(0, ATTEMPTS[0])], scores=scores, coverage=1.0)
    assert (found.differs, found.rare, found.outside) == (0.5, 1.0, 1.0)


def test_where_nothing_differs_nothing_is_rare():
    found = summarise("x", attempts=ATTEMPTS, pairs=[(0, ATTEMPTS[0])], scores=[token_scores([0.0])], coverage=1.0)
    assert (found.differs, found.rare, found.outside, found.thirds) == (0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("gain", "says"), [((0.3, 0.1, 0.5), "YES"), ((-0.3, -0.5, -0.1), "NO"), ((0.1, -0.1, 0.3), "UNCLEAR")]
)
def test_the_verdict_is_the_interval_s(gain, says):
    assert verdict([row(gain=gain)], CONTEXTS, alpha=0.5)[0].startswith(says)


def test_the_verdict_names_what_helps_most_and_what_harms():
    rows = [row(), row("feedback", gain=(-0.2, -0.3, -0.1)), row("demonstration", gain=(0.5, 0.4, 0.6))]
    text = " ".join(verdict(rows, CONTEXTS, alpha=0.5))
    assert "`demonstration` helps most: 0.50 [0.40, 0.60]" in text
    assert "include_environment_feedback=False" in text
    assert "Worse than no help: feedback." in text


def test_the_verdict_warns_of_a_student_that_is_sure_of_the_wrong_token():
    sure = row(rare=0.8)
    assert "take alpha=0.0 (forward KL)" in verdict([sure], CONTEXTS, alpha=0.5)[-1]
    assert len(verdict([sure], CONTEXTS, alpha=0.0)) == 1
    assert len(verdict([row(rare=0.2)], CONTEXTS, alpha=1.0)) == 1
    # Advantages know no other divergence, and a token no top-k.
    assert len(verdict([row(rare=0.8, outside=0.4)], CONTEXTS, alpha=1.0, compares_distributions=False)) == 1


def test_the_verdict_tells_of_coverage_and_of_tokens_outside_the_top_k():
    text = " ".join(verdict([row(coverage=0.3, outside=0.4)], CONTEXTS, alpha=0.0))
    assert "Only 30% of the attempts have a teacher" in text
    assert "raise distillation_topk" in text


def test_without_a_row_nothing_teaches():
    assert verdict([], CONTEXTS, alpha=0.5)[0].startswith("NOTHING TEACHES")


def test_the_table_has_the_best_first_and_json_has_it_all():
    rows = [row("a", gain=(0.1, 0.0, 0.2)), row("b", gain=(0.5, 0.4, 0.6))]
    lines = context_table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| b", "| a"]
    assert {line.count("|") for line in lines} == {12}
    numbers = json.loads(json.dumps(to_json(rows, ["YES"])))
    assert numbers["contexts"][1]["gain"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert numbers["verdict"] == ["YES"]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_student_and_teacher_are_compared_token_by_token(alpha):
    """Over 4 tokens; at the first place the student is sure of one, and the teacher of another."""
    scorer = object.__new__(Scorer)
    scorer.temperature, scorer.alpha, scorer.topk = 2.0, alpha, 1
    student = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.4, 0.3, 0.2, 0.1]]).log()
    teacher = torch.tensor([[0.01, 0.97, 0.01, 0.01], [0.4, 0.3, 0.2, 0.1]]).log()
    found = scorer.compare(2.0 * student + 3.0, 2.0 * teacher)
    assert found.differs.tolist() == [True, False]
    assert found.student_probability == pytest.approx([0.01, 0.4])
    assert found.in_topk.tolist() == [False, True]
    kl = 0.96 * np.log(97)
    assert found.divergence[1] == pytest.approx(0.0, abs=1e-6)
    assert found.divergence[0] == pytest.approx(kl, rel=1e-4) if alpha != 0.5 else 0 < found.divergence[0] < np.log(2)


def test_the_scorer_reads_the_places_that_predict_the_response(monkeypatch):
    """By chunks of two what the model's own logits say, shifted by one."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    scorer = object.__new__(Scorer)
    scorer.model, scorer.temperature, scorer.alpha, scorer.topk = Qwen2ForCausalLM(config).eval(), 0.5, 0.5, 3
    monkeypatch.setattr("verl.sdpo.probe.models.comparison_chunk_tokens", lambda device: 2)
    response = [3, 1, 4, 1, 5]

    def whole(prompt):
        with torch.no_grad():
            return scorer.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]

    found, expected = scorer([5, 6], [7, 8, 9], response), scorer.compare(whole([5, 6]), whole([7, 8, 9]))
    for name, values in vars(expected).items():
        assert getattr(found, name) == pytest.approx(values, rel=1e-4, abs=1e-6), name
    assert found.differs.any()


# The path, with a scripted sampler. Question n is "n"; "right" is right, and the grader says what is wrong else.

QUESTIONS = [
    {"prompt": [{"role": "user", "content": str(number)}], "data_source": "fake", "reward_model": {"ground_truth": ""}}
    for number in range(3)
]


def scripted(prompts):
    """Question 0: every second answer is right; 1: none; 2: all. With a demonstration in the prompt: all are."""
    counts: dict = {}
    answers = []
    for prompt in map(decode, prompts):
        number = counts[prompt] = counts.get(prompt, -1) + 1
        knows = "right:" in prompt or "2" in prompt or ("0" in prompt and number % 2 == 0)
        answers.append(encode("right" if knows else "wrong"))
    return answers


@pytest.fixture
def probe(monkeypatch):
    config = OmegaConf.create(
        {
            "data": {"seed": 0, "max_response_length": 10},
            "actor_rollout_ref": {"actor": {"self_distillation": {**defaults(), **TEMPLATES}}},
        }
    )

    def fake_grader(config, decode):
        grader = object.__new__(Grader)
        grader.decode, grader.max_tokens = decode, 10
        grader.function = lambda solution_str, **_: {
            "score": float(solution_str == "right"),
            "feedback": "" if solution_str == "right" else "no",
        }
        return grader

    builder = TeacherRowBuilder(
        SelfDistillationConfig(**TEMPLATES),
        tokenize_chat=lambda messages, tools: encode(f"<{messages[-1]['content']}>"),
        encode=encode,
        decode=decode,
    )
    monkeypatch.setattr(probe_run, "make_row_builder", lambda *_: builder)
    monkeypatch.setattr(probe_run, "Grader", fake_grader)
    monkeypatch.setattr(probe_run, "read_questions", lambda *_: QUESTIONS)
    tokenizer = type("Tokenizer", (), {"decode": staticmethod(lambda ids, skip_special_tokens: decode(ids))})
    probe = Probe(config, tokenizer, Size(questions=3, attempts=4, answers=100))
    probe.attempt(scripted)
    return probe


def test_attempts_are_graded_with_what_the_environment_says(probe):
    assert [attempt.success for attempt in probe.attempts] == [True, False] * 2 + [False] * 4 + [True] * 4
    assert probe.attempts[1] == Answer(0, False, "0.0 no")


@pytest.mark.parametrize(
    ("context", "places"),
    [
        ("demonstration", [0, 1, 2, 3, 8, 9, 10, 11]),
        ("feedback", [1, 3, 4, 5, 6, 7]),
        ("both", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_a_context_has_a_teacher_where_it_knows_something(probe, context, places):
    chosen, coverage = probe.choose(CONTEXTS[context])
    assert [place for place, _ in chosen] == places
    assert coverage == len(places) / 12
    assert all(("right:" in decode(prompt)) == (context != "feedback") for _, prompt in chosen[:1])


def test_a_row_of_the_whole_path(probe):
    chosen, coverage = probe.choose(CONTEXTS["demonstration"])
    pairs = probe.answer(chosen, scripted)
    found = probe.row("demonstration", chosen, pairs, coverage, lambda *_: token_scores([0.5]))
    assert (found.student, found.teacher.mean, found.gain.mean) == (0.75, 1.0, 0.25)
    assert found.same == 6 / 8


def test_at_most_so_many_answers_are_asked_for(probe):
    probe.size = Size(3, 4, 5)
    chosen, coverage = probe.choose(CONTEXTS["both"])
    assert (len(chosen), coverage) == (5, 1.0)


def test_an_answer_is_a_success_from_the_threshold_on():
    assert to_answer(0, {"score": 0.4}, Grading()) == Answer(0, False, "0.4 ")


def test_a_grader_may_return_a_number_and_may_be_a_coroutine():
    grader = object.__new__(Grader)
    grader.decode, grader.max_tokens = decode, 3
    seen = []

    async def function(**arguments):
        seen.append(arguments)
        return 0.5

    grader.function = function
    assert grader(QUESTIONS[0], encode("abc")) == {"score": 0.5}
    assert seen[0]["extra_info"] == {"truncated": True}
    assert seen[0]["solution_str"] == "abc"


def test_questions_are_drawn_by_the_seed(tmp_path):
    import pandas as pd

    pd.DataFrame({"number": range(10)}).to_parquet(tmp_path / "train.parquet")
    config = OmegaConf.create({"data": {"train_files": str(tmp_path / "train.parquet"), "seed": 3}})
    drawn = read_questions(config, 4)
    assert len({question["number"] for question in drawn}) == 4
    assert drawn == read_questions(config, 4)
    assert len(read_questions(config, 99)) == 10


def test_contexts_come_from_the_command_line_and_from_a_file(tmp_path):
    (tmp_path / "more.yaml").write_text("mine:\n  num_demonstrations: 2\n")
    args = parse_arguments(["--contexts", "both,feedback", "--more", str(tmp_path / "more.yaml")])
    assert list(contexts_of(args)) == ["both", "feedback", "mine"]
    with pytest.raises(ValueError, match="--contexts everything: expected some of configured"):
        contexts_of(parse_arguments(["--contexts", "everything"]))


def test_the_quickstart_s_contexts_are_keys_of_the_block():
    contexts = OmegaConf.load("experiments/quickstart/contexts.yaml")
    for keys in contexts.values():
        assert SelfDistillationConfig(**keys)


def test_transformers_answers_in_the_order_asked_up_to_the_end():
    """A model that repeats the prompt's last token twice, and then ends with token 9."""

    class Model:
        device = "cpu"
        generation_config = type("Config", (), {"eos_token_id": [9, 10]})

        def generate(self, input_ids, attention_mask, **options):
            assert options == {"max_new_tokens": 4}
            assert attention_mask.sum(-1).tolist() == sorted(attention_mask.sum(-1).tolist())
            last = input_ids[:, -1:]
            return torch.cat([input_ids, last, last, torch.full_like(last, 9), torch.zeros_like(last)], -1)

    class Tokenizer:
        def pad(self, rows, padding_side, return_tensors):
            from transformers import BatchEncoding

            width = max(map(len, rows["input_ids"]))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows["input_ids"]])
            return BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long()})

    sampler = object.__new__(TransformersSampler)
    sampler.model, sampler.tokenizer, sampler.options = Model(), Tokenizer(), {"max_new_tokens": 4}
    sampler.BATCH = 2
    assert sampler([[1, 2, 3], [4], [5, 6]]) == [[3, 3, 9], [4, 4, 9], [6, 6, 9]]
    assert sampler([[10]]) == [[10]]
