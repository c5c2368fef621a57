"""The process in which math-verify runs: `python math_helper.py SECONDS`, one JSON pair per line.

A process of its own because math-verify's timeouts need a main thread, and because sympy can hang in C code, where
only the default action of SIGALRM still ends it.
"""

import json
import resource
import signal
import sys

ADDRESS_SPACE_BYTES = 2 << 30


def main():
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    from math_verify import parse, verify

    def boxed(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", parsing_timeout=None)

    for line in sys.stdin:
        gold_text, answer_text = json.loads(line)
        signal.alarm(int(sys.argv[1]))
        gold = boxed(gold_text)
        print("gold parsed", flush=True)
        # Not symmetric: the gold answer comes first.
        equal = verify(gold, boxed(answer_text), timeout_seconds=None)
        print("equal" if equal else "different", flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
