"""What the three multiple-choice graders share: from the letters found to a grade."""

from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Reveal, Task, Verdict


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
    lines = ["Wrong Answer"]
    if task.reveal.allows(Reveal.MISMATCH):
        lines.append(f"Option {found} is not correct.")
    if task.reveal.allows(Reveal.GOLD):
        lines.append(f"The correct option is {gold}.")
    return Grade(Verdict.WRONG_ANSWER, pred=found, feedback="\n".join(lines))


def no_answer(task: Task, how: str) -> Grade:
    """Grade a response that holds no answer in the demanded form `how`."""
    if task.truncated:
        verdict, lines = Verdict.TRUNCATED, ["Truncated Attempt"]
        how = f"The response reached the length limit before giving an answer; reason more briefly. {how}"
    else:
        verdict, lines = Verdict.FORMAT_ERROR, ["Incorrect Format"]
    if task.reveal.allows(Reveal.FORM):
        lines.append(how)
    return Grade(verdict, feedback="\n".join(lines))
