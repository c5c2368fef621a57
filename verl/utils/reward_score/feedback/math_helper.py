"""The process in which math-verify runs: `python math_helper.py SECONDS`, one JSON pair of LaTeX texts per line.

A process of its own because math-verify's timeouts need a main thread, and because sympy can hang in C code, where
only the default action of SIGALRM still ends it.

Both texts are parsed whole or not at all: math-verify's own `parse` falls back to the last number of what it cannot
read, and to comparing text of which it has dropped a part.
"""

import json
import resource
import signal
import sys

ADDRESS_SPACE_BYTES = 2 << 30
# 1/3 may be given as 0.333333; below, math-verify's absolute six decimals would make all small numbers equal.
RELATIVE_TOLERANCE = 1e-5


def main():
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    compare = load()
    for line in sys.stdin:
        gold_text, answer_text = json.loads(line)
        signal.alarm(int(sys.argv[1]))
        for step in compare(gold_text, answer_text):
            print(json.dumps(step), flush=True)
        signal.alarm(0)


def load():
    from latex2sympy2_extended.antlr_parser import PSParser
    from latex2sympy2_extended.latex2sympy2 import latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from math_verify import verify
    from math_verify.grader import should_treat_as_complex
    from sympy import Expr, Float

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        # latex2sympy2_extended 1.11.0 asks for this accessor before it looks for a percentage; the parser generated
        # for antlr 4.9.3 lacks it, as its grammar knows no such atom.
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")

    def parse(text, *, real):
        return latex2sympy(normalize_latex(text, spelling), is_real=real, normalization_config=None)

    def close(gold, answer):
        values = [value.doit() for value in (gold, answer) if isinstance(value, Expr)]
        if len(values) < 2 or not all(value.is_number for value in values) or not any(v.has(Float) for v in values):
            return True
        difference, size = abs(values[0] - values[1]), max(abs(value) for value in values)
        return bool(difference <= RELATIVE_TOLERANCE * size)

    def compare(gold_text, answer_text):
        """Yield the gold answer's error, then whether both are equal and the answer's error; "" is no error."""
        real = not should_treat_as_complex(gold_text + " " + answer_text)
        gold = error = None
        try:
            gold = parse(gold_text, real=real)
        except Exception as caught:
            error = repr(caught)[:500]
        yield {"error": error or ""}
        equal = False
        if error is None:
            try:
                answer = parse(answer_text, real=real)
                # Not symmetric: the gold answer comes first.
                equal = close(gold, answer) and verify(
                    gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
                )
            except Exception as caught:
                error = repr(caught)[:500]
        yield {"equal": equal, "error": error or ""}

    return compare


if __name__ == "__main__":
    main()
