"""Report how far this machine can confine programs: `python -m verl.utils.reward_score.feedback.sandbox`.

Prints the line that a start prints and, for each layer that is missing, why and what would help. Exit status 0 when
`sandbox.min_level` (SDPO_SANDBOX_MIN_LEVEL, default L2) is reached, else 1.
"""

import sys

from verl.utils.reward_score.feedback.sandbox.api import Level, SandboxConfig
from verl.utils.reward_score.feedback.sandbox.canaries import examine
from verl.utils.reward_score.feedback.sandbox.pool import default_workers


def main() -> int:
    config = SandboxConfig.from_env()
    machine = examine(config)
    print(machine.line(config.workers or default_workers()))
    if machine.level < Level.L3:
        print(machine.shortcomings(Level.L3))
    if machine.level < config.min_level:
        print(
            f"Not enough for sandbox.min_level={config.min_level.name}: training and evaluation would refuse to start."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
