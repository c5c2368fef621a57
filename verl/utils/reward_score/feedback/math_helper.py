"""The process in which math-verify runs: `python math_helper.py SECONDS`, one JSON pair of LaTeX texts per line.

A process of its own because math-verify's timeouts need a main thread, and because sympy can hang in C code, where
only the default action of SIGALRM still ends it.

Both texts are parsed whole or not at all: math-verify's own `parse` falls back to the last number of what it cannot
read, and to comparing text of which it has dropped a part. Three of math-verify's comparisons are replaced, because
they accept different answers: numbers (it subtracts them in floating point and takes what is below 1e-15 for zero),
expressions with variables (likewise for their coefficients), and names (it ignores the case of letters).
"""

import json
import re
import resource
import signal
import sys
from functools import lru_cache

ADDRESS_SPACE_BYTES = 2 << 30
# 1/3 may be given as 0.333333; below, math-verify's absolute six decimals would make all small numbers equal.
RELATIVE_TOLERANCE = 1e-5
DECIMALS = 6
# Digits to which two irrational numbers must agree to be equal: 1 + e^(-1000) is not 1.
MAX_DIGITS = 1500

_CONNECTIVE = re.compile(r"\\l(?:or|and)(?![a-zA-Z])")


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
    """Import math-verify with the replaced comparisons, and return the function that compares two texts."""
    from latex2sympy2_extended import symbols
    from latex2sympy2_extended.antlr_parser import PSParser
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from math_verify import grader, verify
    from math_verify.grader import should_treat_as_complex

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        # latex2sympy2_extended 1.11.0 asks for this accessor before it looks for a percentage; the parser generated
        # for antlr 4.9.3 lacks it, as its grammar knows no such atom.
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    # \gamma and \Gamma are letters here, not one number 0.577.
    for name in ("gamma", "Gamma"):
        symbols.sympy_singleton_map.pop(name, None)
    grader.sympy_numeric_eq = numbers_equal(grader.sympy_numeric_eq, grader.is_atomic_or_pct_atomic)
    grader.sympy_symbolic_eq = simplified_equal(grader.sympy_symbolic_eq)
    grader.sympy_compare_symbols = names_equal

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    conversion = ConversionConfig(lowercase_symbols=False)

    def parse(text, *, real):
        parsed = latex2sympy(
            normalize_latex(text, spelling), is_real=real, normalization_config=None, conversion_config=conversion
        )
        return with_real_roots(parsed) if "-" in text and not re.search(r"(?<![a-zA-Z])I(?![a-zA-Z])", text) else parsed

    def read(text, *, real):
        if _CONNECTIVE.search(text):
            return solutions(text, parse, real=real)
        parsed = parse(text, real=real)
        return parsed, parsed.free_symbols if grader.is_relation(parsed) else set()

    def compare(gold_text, answer_text):
        """Yield the gold answer's error, then whether both are equal and the answer's error; "" is no error."""
        real = not should_treat_as_complex(gold_text + " " + answer_text)
        error = None
        try:
            gold, gold_variables = read(gold_text, real=real)
        except Exception as caught:
            error = repr(caught)[:500]
        yield {"error": error or ""}
        equal = False
        if error is None:
            try:
                answer, answer_variables = read(answer_text, real=real)
                # Not symmetric: the gold answer comes first.
                equal = verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
                if _CONNECTIVE.search(gold_text + answer_text) and gold_variables and answer_variables:
                    # As sets, conditions on x and on y are equal.
                    equal = equal and gold_variables == answer_variables
            except Exception as caught:
                error = repr(caught)[:500]
        yield {"equal": equal, "error": error or ""}

    return compare


def numbers_equal(original, is_atomic):
    """Return math-verify's numeric comparison, exact for numbers and for the coefficients of variables."""
    from sympy import Expr, Float, Number

    def compare(gold, answer, float_rounding, numeric_precision):
        if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
            return original(gold, answer, float_rounding, numeric_precision)
        if not (gold.is_number and answer.is_number):
            # Equal in floating point may be an accident, different at one point is none.
            return differ(gold, answer) is not True and original(gold, answer, float_rounding, numeric_precision)
        if gold.has(Float) or answer.has(Float):
            return differ(gold, answer) is False or decimals_equal(gold.doit(), answer.doit(), float_rounding)
        if is_atomic(gold, Number) and is_atomic(answer, Number):
            return original(gold, answer, float_rounding, numeric_precision)
        return differ(gold, answer) is False

    return compare


def decimals_equal(gold, answer, decimals):
    """Compare two numbers of which one is a decimal, by digits after the point and relative to their size."""
    size = max(abs(gold), abs(answer))
    return bool(abs(gold - answer) <= RELATIVE_TOLERANCE * size and gold.round(decimals) == answer.round(decimals))


def simplified_equal(original):
    """Return math-verify's symbolic comparison, which is slow, for what does not differ at a point."""
    from sympy import Expr

    def compare(gold, answer):
        both = isinstance(gold, Expr) and isinstance(answer, Expr)
        return not (both and differ(gold, answer) is True) and original(gold, answer)

    return compare


@lru_cache(maxsize=4)
def differ(gold, answer):
    """Return whether two expressions differ where each variable has some fixed value; None if that is not known.

    Numbers are exact, or irrational and then taken to MAX_DIGITS digits.
    """
    from sympy import Dummy, Float, Integral, Limit, Product, Rational, Sum, nsimplify
    from sympy.core.function import AppliedUndef

    gold, answer = (nsimplify(side, rational=True) if side.has(Float) else side for side in (gold, answer))
    difference = gold.doit() - answer.doit()
    if difference.has(Integral, Limit, Product, Sum):
        return None
    functions = {call: Dummy(str(call), real=True) for call in difference.atoms(AppliedUndef)}
    difference = difference.xreplace(functions)
    variables = sorted(difference.free_symbols, key=str)
    values = {variable: Rational(1009 + 226 * i, 613 + 97 * i) for i, variable in enumerate(variables)}
    return is_nonzero(difference.xreplace(values))


def is_nonzero(number):
    """Return whether a number without variables is not zero; None if its value cannot be computed."""
    if number.is_Rational:
        return number != 0
    value = number.evalf(15, maxn=MAX_DIGITS)
    parts = value.as_real_imag()
    if not all(part.is_Rational or part.is_Float for part in parts):
        return True if value.is_infinite else None
    # A part that is zero to MAX_DIGITS digits comes back with next to no bits of precision.
    return any(part != 0 and (part.is_Rational or part._prec > 20) for part in parts)


def names_equal(gold, answer):
    """Compare two expressions of which one is a name; a product of letters is also written as one name."""
    from sympy import E, Mul, Symbol

    def name(expression):
        if expression == E:
            return "e"
        if isinstance(expression, Symbol):
            return expression.name
        if isinstance(expression, Mul) and all(factor == E or isinstance(factor, Symbol) for factor in expression.args):
            return "".join(map(name, expression.args))
        return str(expression)

    return name(gold) == name(answer)


def with_real_roots(expression):
    """Return an expression in which odd roots of negative numbers are real: the cube root of -8 is -2."""
    from sympy import Basic, Pow

    def is_negative_root(power):
        return (
            isinstance(power, Pow)
            and power.exp.is_number
            and power.exp.doit().is_Rational
            and power.exp.doit().q % 2 == 1
            and power.exp.doit().q > 1
            and power.base.is_number
            and bool(power.base.doit().is_negative)
        )

    def real_root(power):
        sign = -1 if power.exp.doit().p % 2 else 1
        return sign * (-power.base.doit()) ** power.exp.doit()

    return expression.replace(is_negative_root, real_root) if isinstance(expression, Basic) else expression


def solutions(text, parse, *, real):
    r"""Return the set of numbers that satisfy inequalities joined by \lor and \land, and their variable in a set.

    Raises:
        ValueError: They are not about one variable.
    """
    from sympy import Intersection, Set, Union

    variables = set()

    def part(condition):
        parsed = parse(condition, real=real)
        if isinstance(parsed, Set):
            return parsed
        variables.update(parsed.free_symbols)
        return parsed.as_set()

    alternatives = [
        Intersection(*map(part, re.split(r"\\land(?![a-zA-Z])", alternative)))
        for alternative in re.split(r"\\lor(?![a-zA-Z])", text)
    ]
    if len(variables) > 1:
        raise ValueError(f"inequalities of several variables: {text}")
    return Union(*alternatives), variables


if __name__ == "__main__":
    main()
