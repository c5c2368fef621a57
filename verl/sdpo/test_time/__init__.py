"""Search for a solution of one hard question at test time, by SDPO on that question.

All methods share one log format (`log`), one grader (`grading`) and one budget; `discovery` compares them.

The prompting methods, multi-turn and best-of-k, are in `baseline_multiturn/`.
"""
