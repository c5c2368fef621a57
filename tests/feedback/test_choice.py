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


LISTED = (
    "Which?\nOptions:\nA. item 0\nB. item 1\nC. item 2\nD. item 3\nE. item 4\nF. B cells\nG. item 6\nH. item 7\nI. 8\n"
)
LISTED_INLINE = "Problem: which?\nOptions: A) 1.2 eV B) 2.2 eV C) 3.2 eV D) vitamin D\nAnswer:"


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("The answer is (C), and I am confident of it.", AC),
        ("The answer is (C), and I'm sure.", AC),
        ("The answer is (C) and a quick check agrees.", AC),
        ("The answer is C and I checked it.", AC),
        ("The answer is C as shown above.", AC),
        ("The answer is C (item 2)", AC),
        ("The answer is C - item 2", AC),
        ("The answer is C \u2013 item 2.", AC),
        ("The answer is C item 2", AC),
        ("The answer is C: item 2", AC),
        ("The answer is C, item 2", AC),
        ("The answer is C — A, B and D are ruled out.", AC),
        ("The answer is (C); A and B are wrong.", AC),
        ("The answer is C, since A is too low.", AC),
        ("The answer is (C) or I", FE),
        ("The answer is (C) and (D)", FE),
        ("The answer is C or A.", FE),
        ("The answer is C and A", FE),
        ("The answer is (C), D", FE),
        ("The answer is C (or D)", FE),
        ("The answer is C, or a", FE),
        ("The answer is C and I is right", FE),
        ("The answer is C — D", FE),
        ("The answer is C, D are both right", FE),
        ("The answer is C; D is also possible.", AC),
        ("The answer is C, A is not wrong either", FE),
        ("The answer is C / D", FE),
        ("The answer is $\\large C$", AC),
        ("The answer is \\boxed{\\bf C}", AC),
        ("The answer is \\boxed{\\,C\\,}", AC),
        ("The answer is C therefore", FE),
        ("The answer is C (I think)", AC),
        ("The answer is (C), I believe.", AC),
        ("The answer is (C). I am sure.", AC),
        ("The answer is (C), as A and B fail.", AC),
        ("The answer is C, a good fit", AC),
        ("The answer is C & D", FE),
        ("The answer is C, not D.", AC),
        ("The answer is C or maybe D", FE),
        ("The answer is C, perhaps D", FE),
        ("The answer is either C or D", FE),
        ("The answer is (C) but a caveat", AC),
        ("the answer is C given the data", AC),
        ("Answer: C\n\nA is wrong", AC),
        ("The answer is B cells", FE),
        ("The answer is A perfect square", FE),
        ("The answer is A for effort", FE),
    ],
)
def test_mmlu_pro_with_words_behind_the_letter(response, verdict):
    accepted = [gold for gold in "ABCDI" if mmlu_pro.grade(task(response, gold, problem=LISTED)).verdict is AC]
    assert accepted == ["C"] * (verdict is AC)
    assert mmlu_pro.grade(task(response, "C", problem=LISTED)).verdict is verdict


@pytest.mark.parametrize(
    ("box", "verdict"),
    [
        ("C, 3.2 eV", AC),
        ("C - 3.2 eV", AC),
        ("C (3.2 eV)", AC),
        ("\\bf C", AC),
        ("\\large\\text{C}", AC),
        ("\\,C\\,", AC),
        ("C\\ ", AC),
        ("C\\ 3.2 eV", AC),
        ("C 3.2 eV", AC),
        ("C, D", FE),
        ("C - D", FE),
        ("C (D)", FE),
        ("C (or D)", FE),
        ("C (not D)", FE),
        ("C D", FE),
        ("{\\bf C}", AC),
        ("\\textbf{C}\\;", AC),
        ("\\mathrm{C}, 3.2\\ \\text{eV}", AC),
        ("\\text{C) 3.2 eV}", AC),
        ("C; 3.2 eV", AC),
        ("\\text{C} \\quad (3.2\\text{ eV})", AC),
        ("\\Large \\textbf{C}", AC),
        ("C = 3", FE),
        ("C\\text{ -- }3.2 eV", AC),
        ("\\text{C: }3.2", AC),
        ("C, maybe D", FE),
        ("C and D", FE),
        ("C3", FE),
    ],
)
def test_gpqa_with_the_options_text_sizes_and_spacing(box, verdict):
    assert gpqa.grade(task(f"So \\boxed{{{box}}}", "C", problem=LISTED_INLINE)).verdict is verdict


def test_gpqa_with_a_letter_in_the_options_text():
    assert gpqa.grade(task(r"\boxed{D, vitamin D}", "D", problem=LISTED_INLINE)).verdict is AC
    assert gpqa.grade(task(r"\boxed{D, vitamin C}", "D", problem=LISTED_INLINE)).verdict is FE
