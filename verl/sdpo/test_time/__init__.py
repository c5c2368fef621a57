"""Searching for a solution of one hard question at test time: what all methods share, SDPO on that question, and the
comparison of methods (`discovery`). One log format (`log`), one grader (`grading`), one budget.

The prompting methods, multi-turn and best-of-k, are in `baseline_multiturn/`.
"""
