"""Best-of-k baseline: sample the question until an attempt passes the public and the hidden tests.

python baseline_multiturn/best_of_k.py --data-dir lcb_v6_singles/q_120 --run-name best_of_k_q120
python baseline_multiturn/best_of_k.py --data-dir lcb_v6_singles/q_120 --run-name pool_q120 --pool --budget 2944

Start it again to go on where it stopped. See docs/test-time.md.
"""

import argparse
import os
import sys

if not __package__:
    # Started as a file: Python then looks for imports in this folder, and not in the one above.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from baseline_multiturn.command import argument_parser, run
from baseline_multiturn.search import best_of_k


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="attempts that vLLM samples at once (%(default)s)")
    # Not in the header of an ordinary search's log, so that logs that were begun without this option go on.
    whole = "go on after a confirmed attempt until the budget is used up, for discovery's pass@k"
    parser.add_argument("--pool", action="store_true", default=argparse.SUPPRESS, help=whole)
    args = parser.parse_args()
    run(args, "best_of_k", lambda search: best_of_k(search, args.batch))


# vLLM starts processes that import this file again.
if __name__ == "__main__":
    main()
