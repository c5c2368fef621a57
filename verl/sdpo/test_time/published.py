"""Published results at test time (arXiv 2601.20802, section 5, appendix D.3, v1 = v2): Qwen3-8B, LiveCodeBench v6.

python verl/sdpo/test_time/published.py SET      the question ids of a set; needs no installation
"""

import sys

BUDGET = 2750

# Question id -> confirmed attempts among the 2944 of the base model that the paper's best-of-k is computed from. Not
# printed: they follow from Table 10's mean attempts to the first success, and give Fig. 13's best-of-k to 0.001.
POOL = 2944
SUCCESSES = {
    **{1: 29, 3: 0, 10: 0, 43: 26, 46: 1, 59: 23, 69: 21, 74: 1, 86: 6, 91: 0, 92: 0, 95: 1, 100: 9, 103: 0, 111: 30},
    **{120: 8, 125: 1, 127: 7, 129: 16},
}

# The base model's pass@64 is below 0.5 (hard) and below 0.03 (very hard: the asterisks of Table 10).
QUESTIONS = {
    "hard": tuple(SUCCESSES),
    "very-hard": (3, 10, 46, 74, 91, 92, 95, 103, 125),
}

# discovery@k of Fig. 13, read off the figure (+-0.002; multi-turn at 250: +-0.01).
FIGURE_13_K = tuple(range(250, BUDGET + 1, 250))
FIGURE_13 = {
    "hard": {
        "sdpo": (0.489, 0.620, 0.660, 0.682, 0.725, 0.735, 0.736, 0.757, 0.777, 0.777, 0.777),
        "multi_turn": (0.48, 0.536, 0.556, 0.579, 0.579, 0.600, 0.632, 0.653, 0.663, 0.685, 0.685),
    },
    "very-hard": {
        "sdpo": (0.081, 0.222, 0.285, 0.333, 0.423, 0.444, 0.444, 0.489, 0.532, 0.532, 0.532),
        "multi_turn": (0.09, 0.133, 0.177, 0.198, 0.198, 0.220, 0.265, 0.308, 0.331, 0.353, 0.353),
    },
}

# discovery@2750 as printed in section 5.
AT_BUDGET = {
    "hard": {"sdpo": 0.78, "best_of_k": 0.723, "multi_turn": 0.684},
    "very-hard": {"sdpo": 0.532, "best_of_k": 0.415, "multi_turn": 0.356},
}

if __name__ == "__main__":
    if sys.argv[1:] not in ([name] for name in QUESTIONS):
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(QUESTIONS)}")
    print(*QUESTIONS[sys.argv[1]])
