"""Searching for a solution of one hard question at test time: multi-turn, best-of-k, and SDPO on that question.

Framework-free, except for `engines` (vLLM, or a server). One log format (`log`), one grader (`grading`), one budget.
"""
