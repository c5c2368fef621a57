"""Multiple choice: SciKnowEval, GPQA, MMLU-Pro."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feedback.helpers import shared_data, task
from verl.utils.reward_score.feedback import gpqa, mcq, mmlu_pro
from verl.utils.reward_score.feedback.contract import GraderFault, Verdict

AC, WA, FE = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.FORMAT_ERROR
TWO_OPTIONS = "True?\n\nA: yes\nB: no\nPlease reason step by step."


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("<reasoning>r</reasoning>\n<answer>\nB\n</answer>", AC),
        ("<answer>B</answer>\n", AC),
        ("<think>maybe <answer>A</answer></think><answer>B</answer>", AC),
        ("<answer>A</answer>", WA),
        ("B", FE),
        ("", FE),
        ("<answer>b</answer>", FE),
        ("<answer>A, B, C, D</answer>", FE),
        ("<answer>A</answer><answer>B</answer>", FE),
        ("<answer>B", FE),
        ("<answer>B</answer> because", FE),
        ("<think>so <answer>B</answer>", FE),
        ("<answer><answer>B</answer>", FE),
        ("<answer>B: no</answer>", FE),
        ("<answer>E</answer>", FE),
    ],
)
def test_mcq(response, verdict):
    assert mcq.grade(task(response, "B")).verdict is verdict


def test_mcq_takes_the_options_from_the_problem():
    assert mcq.grade(task("<answer>C</answer>", "B", problem=TWO_OPTIONS)).verdict is FE
    assert mcq.grade(task("<answer>B</answer>", "B", problem=TWO_OPTIONS)).verdict is AC


@pytest.mark.parametrize("name", ["biology", "chemistry", "material"])
def test_mcq_accepts_every_shipped_answer(name):
    for split in ("train", "test"):
        for record in shared_data(f"sciknoweval/{name}/{split}.json"):
            response = f"<reasoning>\n...\n</reasoning>\n<answer>\n{record['answer']}\n</answer>"
            grade = mcq.grade(task(response, record["answer"], problem=record["prompt"]))
            assert grade.verdict is AC, record["idx"]


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (r"\boxed{B}", AC),
        (r"So \boxed{\text{B}}.", AC),
        (r"\boxed{(B)}", AC),
        (r"\boxed{B.}", AC),
        (r"\boxed{A}", WA),
        (r"\boxed{$B$}", AC),
        (r"\boxed{\(B\)}", AC),
        (r"\boxed{\mathbf{(B)}}", AC),
        (r"\boxed{**B**}", AC),
        (r"\boxed{B: the gas expands}", AC),
        (r"\boxed{\text{B. vitamin C}}", AC),
        (r"\boxed{\text{Option B}}", AC),
        (r"\boxed{B}, that is \boxed{\text{B}}", AC),
        (r"\boxed{A: it contracts}", WA),
        (r"\boxed{A: no, B: yes}", FE),
        (r"\boxed{B. or C.}", FE),
        (r"\boxed{B, C}", FE),
        (r"\boxed{BC}", FE),
        (r"\boxed{\Delta B}", FE),
        (r"\boxed{B = 5}", FE),
        (r"\boxed{A} or \boxed{B}", FE),
        (r"\boxed{b}", FE),
        (r"\boxed{E}", FE),
        ("B", FE),
        ("It is a gas", FE),
        ("", FE),
    ],
)
def test_gpqa(response, verdict):
    assert gpqa.grade(task(response, "B")).verdict is verdict


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("the answer is (B)", AC),
        ("The answer is (b).", AC),
        ("the answer is B.", AC),
        ("Answer: B", AC),
        ("**The answer is (B)**", AC),
        (r"The answer is $\boxed{B}$", AC),
        ("**Answer:** B", AC),
        ("**The answer is:** (B)", AC),
        ("***Answer***: ***B***", AC),
        ("__Answer__: B", AC),
        ("Answer: `B`", AC),
        ("### Answer\n\n**(B)**", AC),
        (r"The answer is \(B\).", AC),
        (r"The answer is \[\boxed{\textbf{(B)}}\]", AC),
        (r"The answer is $\mathrm{B}$.", AC),
        ("The correct answer is option B.", AC),
        ("The answer is B: green", AC),
        ("The answer is B because it is green.", AC),
        ("The answer is (B). (A) is too low, (C) too high.", AC),
        ("The answer is (B)\n(A) has the wrong sign.", AC),
        ("The answer is (B), not (A).", AC),
        ("**The answer is:** (A)", WA),
        ("the answer is (A). No: the answer is (B).", AC),
        ("the answer is (A)", WA),
        ("The answer is (B) or (C).", FE),
        ("The answer is (B), (C).", FE),
        ("The answer is (B)/(C)", FE),
        ("The answer is (B). Or (C).", FE),
        ("The answer is (B).\n(C).", FE),
        ("The answer is B and C.", FE),
        ("**Answer:** B, C", FE),
        ("the answer is (B). No: the answer is (B) or (C).", FE),
        ("<think>the answer is (B)", FE),
        ("the answer is a mixture", FE),
        ("The answer is I think unclear", FE),
        ("B", FE),
        ("", FE),
    ],
)
def test_mmlu_pro(response, verdict):
    assert mmlu_pro.grade(task(response, "B")).verdict is verdict


def test_mmlu_pro_knows_sixteen_options():
    assert mmlu_pro.grade(task("the answer is (P)", "P")).verdict is AC


def test_truncation_explains_a_missing_answer_only():
    assert mcq.grade(task("<reasoning>and so on", "B", truncated=True)).verdict is Verdict.TRUNCATED
    assert mcq.grade(task("<answer>A</answer>", "B", truncated=True)).verdict is WA
    assert mcq.grade(task("<answer>B</answer>", "B", truncated=True)).verdict is AC


@pytest.mark.parametrize("gold", ["", "-", "AB", None, "b", 1])
def test_a_ground_truth_that_is_no_letter_is_the_graders_fault(gold):
    with pytest.raises(GraderFault, match="option letter"):
        mcq.grade(task("<answer>B</answer>", gold))


def test_reveal_levels():
    texts = {level: mcq.grade(task("<answer>A</answer>", "B", reveal=level)).feedback for level in LEVELS}
    assert texts == {
        "none": "Wrong Answer",
        "form": "Wrong Answer",
        "mismatch": "Wrong Answer\nOption A is not correct.",
        "gold": "Wrong Answer\nOption A is not correct.\nThe correct option is B.",
    }


LEVELS = ("none", "form", "mismatch", "gold")


@given(st.text() | st.text(alphabet="<answer>/ABCDis()\\boxed{}the \n", max_size=200))
def test_arbitrary_text_never_raises_nor_is_right_for_two_golds(text):
    for module in (mcq, gpqa, mmlu_pro):
        accepted = [gold for gold in "ABCD" if module.grade(task(text, gold)).verdict is AC]
        assert len(accepted) <= 1


@given(st.text(alphabet=st.characters(exclude_characters="<")))
def test_mcq_never_accepts_without_a_tag(text):
    assert all(mcq.grade(task(text, gold)).verdict is not AC for gold in "ABCD")
