"""Multi-turn baseline: prompt with all feedback so far until an attempt passes the public and the hidden tests.

python baseline_multiturn/multiturn.py --data-dir lcb_v6_singles/q_120 --run-name multiturn_q120

Start it again to go on where it stopped. See docs/test-time.md.
"""

import os
import sys

if not __package__:
    # Started as a file: Python then looks for imports in this folder, and not in the one above.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from baseline_multiturn.command import argument_parser, run
from baseline_multiturn.search import TEMPLATES, multi_turn


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--template", choices=TEMPLATES, default=TEMPLATES[0], help="what a prompt shows of the past")
    args = parser.parse_args()
    run(args, "multi_turn", lambda search: multi_turn(search, args.template))


# vLLM starts processes that import this file again.
if __name__ == "__main__":
    main()
