"""Shared parts of the graders of single answers: from the answer found to a grade and its text."""

from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Reveal, Task, Verdict
from verl.utils.reward_score.feedback.text import bound, sanitise


def grade_choice(task: Task, *, found: str | None, options: str, how: str) -> Grade:
    """Grade one option letter.

    Args:
        found: The letter that the response gives in the demanded form, or None.
        options: The letters that the question offers, such as "ABCD".
        how: A sentence that tells the demanded form.

    Raises:
        GraderFault: The ground truth is no letter.
    """
    gold = str(task.ground_truth).strip()
    if len(gold) != 1 or not "A" <= gold <= "Z":
        raise GraderFault(f"expected an option letter as ground truth, got {task.ground_truth!r}")
    if found is None or found not in options:
        return no_answer(task, how)
    if found == gold:
        return Grade(Verdict.ACCEPTED, pred=found)
    return wrong_answer(
        task, pred=found, mismatch=f"Option {found} is not correct.", gold=f"The correct option is {gold}."
    )


def wrong_answer(task: Task, *, pred: str, mismatch: str, gold: str) -> Grade:
    """Grade a wrong answer; `mismatch` and `gold` are the sentences that those reveal levels add."""
    lines = ["Wrong Answer"]
    if task.reveal.allows(Reveal.MISMATCH):
        lines.append(mismatch)
    if task.reveal.allows(Reveal.GOLD):
        lines.append(gold)
    return Grade(Verdict.WRONG_ANSWER, pred=pred, feedback=bound(sanitise("\n".join(lines))))


def no_answer(task: Task, how: str) -> Grade:
    """Grade a response that holds no answer in the demanded form; the sentence `how` tells that form."""
    if task.truncated:
        verdict, title = Verdict.TRUNCATED, "Truncated Attempt"
        how = f"The response reached the length limit before giving an answer; reason more briefly. {how}"
    else:
        verdict, title = Verdict.FORMAT_ERROR, "Incorrect Format"
    return Grade(verdict, feedback=f"{title}\n{how}" if task.reveal.allows(Reveal.FORM) else title)
