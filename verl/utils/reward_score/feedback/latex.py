r"""One spelling for each mathematical answer, whatever LaTeX, Markdown, Unicode or plain text it is written in.

`normalise` is applied to the gold answer and to the response's, before text or math-verify compares them. It keeps the
value: nothing is dropped but what has none (spacing, colour, size, a unit at the end).
"""

import re
import unicodedata
from fractions import Fraction

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\u2010\u2011", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u200a", r"\,"),
        **dict.fromkeys("\u200b\u2060\ufeff\u2061\u2062", ""),
        **dict.fromkeys("\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ",
        "\u00f7": r"\div ",
        "\u2215": "/",
        "\u2044": "/",
        "\u00a2": r"\text{cents}",
        "\u00b1": r"\pm ",
        "\u221a": r"\sqrt ",
        "\u221e": r"\infty ",
        "\u00b0": r"^\circ ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\neq ",
        "\u2248": r"\approx ",
        "\u2261": r"\equiv ",
        "\u2208": r"\in ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2205": r"\emptyset ",
        "\u211d": r"\mathbb{R}",
        "\u2216": r"\setminus ",
        "\u2227": r"\land ",
        "\u2228": r"\lor ",
        "\u27e8": r"\langle ",
        "\u27e9": r"\rangle ",
        "\u03c0": r"\pi ",
        "\u03b8": r"\theta ",
        "\u2026": r"\ldots ",
    }
)
_NUMBERS = {
    word: str(value)
    for value, word in enumerate(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], start=2)
} | {"twelve": "12", "sixteen": "16"}
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_FACTORS = {
    "dozen": "12",
    "hundred": "10^{2}",
    "thousand": "10^{3}",
    "million": "10^{6}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
}

# A name that plain text writes without a backslash. No product of letters is spelled like it.
_FUNCTIONS = [
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "ln",
    "exp",
]
_LETTERS = ["pi", "alpha", "beta", "theta", "lambda", "phi", "omega"]
_PLAIN_NAME = rf"(?<![a-zA-Z\\])(?:{'|'.join([*_FUNCTIONS, *_LETTERS])}|log(?!\s*\d))(?![a-zA-Z])"

SIZES = ["tiny", "scriptsize", "footnotesize", "small", "normalsize", "large", "Large", "LARGE", "huge", "Huge"]
_SPACE = r"(?:\\[,:;!> ]|~|\s|\\(?:thin|med|thick|neg|en)?space(?![a-zA-Z]))"
_FONTS = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|tt|normal|up|cal|scr|frak)|mbox|hbox|emph|bm|boldsymbol|"
    r"operatorname\*?|underline|ensuremath)\s*"
)
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_PLAIN_NUMBER = r"-?\d+(?:\.\d+)?"

INEQUALITY = re.compile(r"[<>]|\\(?:[lg]eq?q?|leqslant|geqslant|neq?|[lg]t)(?![a-zA-Z])|!=")

# Applied in this order.
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Size, style and position.
        (r"\{\s*\}(?=\s*[\^_])", ""),
        (r"\\(?:[bB]igg?[lrm]?|left|right|middle)(?![a-zA-Z])\s*(?:\.(?!\d))?", ""),
        (rf"\\(?:{'|'.join(SIZES)})(?![a-zA-Z])", " "),
        (r"\\(?:display|text|script)style(?![a-zA-Z])|\\(?:no)?limits(?![a-zA-Z])|\\strut(?![a-zA-Z])", " "),
        (r"\\\\\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\]", r"\\\\ "),
        # Thousands: 70\,000, 11,\! 111, 10{,}080, 1 234 567.
        (
            rf"(?<![\d.,])\d{{1,3}}(?:(?:{_SPACE}|,?(?:\\!|\\,)\s*|\{{,\}}\s*)\d{{3}})+(?![\d/])",
            lambda match: re.sub(r"[^\d]", "", match[0]),
        ),
        (r"(?<![a-zA-Z])\{\s*,\s*\}", ","),
        (r"=\s*\$?\d{1,3}(?:,\d{3})+(?![\d,])", lambda match: match[0].replace(",", "")),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\colon(?![a-zA-Z])|\{\s*:\s*\}", ":"),
        (r"\A\s*<([^<>=]*,[^<>=]*)>\s*\Z", r"(\1)"),
        (r"\A\s*(?:\\text\{\s*)?all real numbers\s*\}?\s*\Z", r"\\mathbb{R}"),
        (r"\\langle(?![a-zA-Z])\s*([^<>]*?)\s*\\rangle(?![a-zA-Z])", r"(\1)"),
        (r"\\(?:dots[cbmio]?|cdots|hdots)(?![a-zA-Z])|\.\.\.", r"\\ldots "),
        (r"(\d\.\d+)\s*\\ldots\s*\Z", lambda m: m[0] if re.search(r"(\d)\1\1\Z", m[1]) else m[1]),
        # Plain text: names without a backslash, powers as in Python.
        (_PLAIN_NAME, r"\\\g<0>"),
        (r"(?<=[\w)}])\s*\*\*\s*(?:(-?\d+)|(?=[a-zA-Z({\\]))", lambda m: f"^{{{m[1]}}}" if m[1] else "^"),
        # Sets and conditions.
        (r"\\mathbb\s*(\w)", r"\\mathbb{\1}"),
        (r"\\(?:backslash|smallsetminus)(?![a-zA-Z])", r"\\setminus"),
        (r"\\mathbb\{R\}\s*-\s*(?=\\\{)", r"\\mathbb{R}\\setminus "),
        (r"\\vee(?![a-zA-Z])", r"\\lor"),
        (r"\\wedge(?![a-zA-Z])", r"\\land"),
        (
            r"\A\s*\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid(?![a-zA-Z])|\||:)(.*)\\\}\s*\Z",
            lambda m: m[2] if INEQUALITY.search(m[2]) else m[0],
        ),
        (r"\{\s*\\(?:rm|bf|it|sf|tt)(?![a-zA-Z])\s*([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:rm|bf|it|sf|tt)(?![a-zA-Z])\s*(?:\{([^{}]*)\})?", r"\1"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\[hv]space\*?\s*\{[^{}]*\}|\\[hv]?phantom\s*\{[^{}]*\}", " "),
        (r"(?<!\\)(?:\\[,:;!> ]|~|\\(?:thin|med|thick|neg|en)space(?![a-zA-Z])|\\q?quad(?![a-zA-Z]))", " "),
        # Colour.
        (r"\\(?:fcolorbox\s*\{[^{}]*\}|textcolor|colorbox|color)\s*(?:\[\w+\])?\{[^{}]*\}", ""),
        # Fractions, roots, the two dots of a period.
        (r"\\?sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}"),
        (r"\\(?:nice|flat|sl|[xsdtc])frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\d|\\(?!sqrt|text|math)[a-zA-Z]+)\s*(?:\{([^{}]*)\}|(\w))", r"\\frac{\1}{\2\3}"),
        (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\A([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\Z", r"\\binom{\1}{\2}"),
        (r"\\[td]?binom\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))", r"\\binom{\1\2}{\3\4}"),
        (r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)", r"\1\\frac{\2}{\3}"),
        # Primes, degrees, percent, roots of -1, moduli, bases.
        (r"\^\s*(?:\{\s*((?:\\prime\s*)+)\}|\\prime(?![a-zA-Z]))", lambda m: "'" * (m[0].count("prime"))),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])", r"\\degree "),
        (rf"\s*(?:\\%|(?<!\\)%|(?:{_FONTS}\{{)?\s*(?<![a-zA-Z])per\s?cent(?![a-zA-Z])\s*\}}?)", r"\\%"),
        (r"\\[ij]math(?![a-zA-Z])", "i"),
        (rf"\(\s*(?:\\b?mod|mod|{_FONTS}\{{\s*mod\s*\}})\s*([^()]*)\)", r"\\pmod{\1}"),
        (r"\\p?mod\s*(?:\{([^{}]*)\}|(\d+|\w))", r"\\pmod{\1\2}"),
        (
            rf"(?<=[\dA-F)])\s*(?:{_FONTS}\{{)?\s*\(?\s*(?:in\s+)?[Bb]ase[\s-]*\}}?\s*(\w+)\s*\)?\s*\}}?\s*\Z",
            r"_{\1}",
        ),
        (r"_\s*\{\s*\((\w+)\)\s*\}", r"_{\1}"),
        # Ordinal numbers, times of day.
        (
            rf"(?<![\w.])(\d+)\s*(?:\\textsuperscript|\^)?\s*(?:{_FONTS})?\{{?\s*(?:{_FONTS}\{{)?\s*(st|nd|rd|th)(?![a-zA-Z])\s*(\}}*)",
            lambda m: f"{m[1]} " + _unbalanced(m[0]) if m[2] == _ordinal_suffix(m[1]) else m[0],
        ),
        (r"(?<![a-zA-Z])([aApP])\.\s?[mM]\.?(?![a-zA-Z])", r"\1m"),
        (r"\A\s*(\d{1,2}(?::\d\d)?)\s*([aApP][mM])\s*\Z", r"\1\\text{\2}"),
        # Money.
        (r"(?:US|U\.S\.)?\\\$|\$|\u20ac|\u00a3|\\(?:pounds|euro)(?![a-zA-Z])", ""),
    )
]
_FONT_GROUP = re.compile(_FONTS + _GROUP)
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\)(?=\s*\Z)|"
    r"((\d)\7{2,})\s*(?:\\[lc]?dots(?![a-zA-Z])|\.\.\.))"
)
_WORD_FACTORS = "|".join(_FACTORS)
_FACTOR = re.compile(
    rf"(?<![\w.])({_PLAIN_NUMBER})\s*(?:(?P<open>\\text\{{)\s*)?((?:\s*(?:{_WORD_FACTORS})s?(?![a-zA-Z]))+)(?(open)\s*([^{{}}]*)\}})"
)
_CONNECTIVE = re.compile(
    rf"\s*[,;]?\s*(?:{_FONTS}\{{\s*[,;]?\s*(?=\w+\s*\}}))?(?<![a-zA-Z\\])(and|or)(?![a-zA-Z])(?:\s*\}})?\s*"
)
_EXCLUSION = re.compile(r"\\neq?(?![a-zA-Z])|!=")
# What `= ` follows: a text, or a variable before a \\pm, which math-verify does not read there.
_LEFT_SIDE = re.compile(r"\s*(?:\\text\{[^{}]*\}|[A-Za-z](?:_\w)?\s*(?==[^=]*\\pm))\s*=")
# Equations below each other are a list; a matrix is none, and neither is a function by cases.
_ROWS = re.compile(
    r"\\begin\{(?P<kind>cases|aligned|gathered|split)\}(.*?)\\end\{(?P=kind)\}"
    r"|\\\{\s*\\begin\{array\}\s*\{[lcr| ]*\}(.*?)\\end\{array\}",
    re.DOTALL,
)
_WRAPPERS = re.compile(
    r"(?P<mark>\*{1,3}|_{1,3}|`+)(?![*_`\s])([^*_`]+?)(?<!\s)\s*(?P=mark)|\"([^\"]+)\"|\$+([^$]+)\$+|\\\((.*)\\\)|\\\[(.*)\\\]"
    r"|\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}",
    re.DOTALL,
)


def normalise(answer: str) -> str:
    """The one spelling of `answer`; see the module."""
    text = " ".join(answer.translate(_UNICODE).split())
    text = re.sub("[\u00b2\u00b3\u00b9\u2070-\u2079\u207b]+", _superscript, text)
    text = re.sub("[\u00bc-\u00be\u2150-\u215e]", _vulgar_fraction, text)
    text = re.sub("[\uff01-\uff5e]", lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _unwrap(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if INEQUALITY.search(text):
        # Between conditions the word matters, and a comma before it is part of it; in a list both mean a comma.
        text = _CONNECTIVE.sub(lambda match: rf" \l{match[1]} ", text)
        if all(map(_EXCLUSION.search, text.split(","))):
            text = text.replace(",", r" \land ")
    text = _FONT_GROUP.sub(_plain_font, text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    if left := _LEFT_SIDE.match(text):
        text = text[left.end() :]
    text = _ROWS.sub(_list, text)
    text = _REPEATING.sub(_repeating, text)
    text = _FACTOR.sub(_in_digits, text)
    text = _unwrap(" ".join(text.split()))
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])", text):
        text = re.sub(rf"({_PLAIN_NUMBER})\s*\\degree", r"{(\\frac{\1\\pi}{180})}", text)
    if scientific := re.fullmatch(rf"({_PLAIN_NUMBER})[eE]([+-]?\d+)", text):
        text = rf"{scientific[1]}\cdot 10^{{{scientific[2]}}}"
    if text.count(r"\pm") == 1 and not re.search(r"[,;=<>]|\\\{", text):
        text = ",".join(text.replace(r"\pm", sign) for sign in "+-")
    if (percent := re.fullmatch(r"(.+)\\%", text)) and not re.fullmatch(_PLAIN_NUMBER, percent[1]):
        text = rf"\frac{{{percent[1]}}}{{100}}"
    return text


def _unwrap(text: str) -> str:
    """Take off, as often as they occur, what encloses the whole answer, a stop at its end and an `=` before it."""
    while True:
        before = text
        text = text.strip().rstrip(" ,;").removeprefix("=")
        for end in (".", "\\"):
            text = text if text.endswith(2 * end) else text.removesuffix(end)
        match = _WRAPPERS.fullmatch(text)
        text = next(filter(None, match.groups()[1:]), "") if match else text
        if text == before:
            return text


def _superscript(match: re.Match) -> str:
    return f"^{{{unicodedata.normalize('NFKC', match[0]).replace(chr(0x2212), '-')}}}"


def _vulgar_fraction(match: re.Match) -> str:
    above, below = unicodedata.normalize("NFKC", match[0]).split("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def _plain_font(match: re.Match) -> str:
    """A formula, a number or a letter without its font; words stay marked as text."""
    content = match[1].strip(" \"`'")
    if re.fullmatch(r"[,;]?\s*(?:and|or)|[,;]", content):
        return " , "
    if content in _FUNCTIONS:
        return rf"\{content} "
    if quantity := re.fullmatch(rf"({_PLAIN_NUMBER}|\d+:\d\d)\s+([a-zA-Z].*)", content):
        return rf"{quantity[1]}\text{{{quantity[2]}}}"
    if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}|[a-zA-Z]/[a-zA-Z]", content):
        # A unit of one letter is distinguished from a variable by its font.
        unit = content in "mgshLlJNWVKCF" and match[0].startswith((r"\text", r"\mathrm", r"\mbox")) and content
        return rf"\text{{{content}}}" if unit else f" {content} " if content[:1].isalnum() else content
    return rf"\text{{{content}}}"


def _ordinal_suffix(number: str) -> str:
    if number[-2:] in ("11", "12", "13"):
        return "th"
    return {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th")


def _unbalanced(text: str) -> str:
    """Return the closing braces of `text` that close a group which began before it."""
    return "}" * max(0, text.count("}") - text.count("{"))


def _in_digits(match: re.Match) -> str:
    factors = "".join(rf"\cdot {_FACTORS[word.removesuffix('s')]}" for word in match[3].split())
    return match[1] + factors + (rf"\text{{{match[4]}}}" if match[4] else " ")


def _list(match: re.Match) -> str:
    rows = [re.sub(r"&\s*(?==)", "", row).strip(" ,;") for row in (match[2] or match[3] or "").split(r"\\")]
    return match[0] if any("&" in row for row in rows) else ",".join(filter(None, rows))


def _repeating(match: re.Match) -> str:
    whole, once, period = match[1] or "0", match[2], match[3] or match[4] or match[5] or match[7]
    value = Fraction(int(whole + once + period) - int(whole + once), 10 ** len(once + period) - 10 ** len(once))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def squeezed(text: str) -> str:
    """`text` without blanks but those that part two numbers."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\s|\d)", "", " ".join(text.split()))


def spelling(answer: str) -> str:
    """Return what two normalised answers have in common if they are written alike: no blanks, needless braces, fonts.

    Words have no case. A product of letters has, and so have initials, genotypes and units: `2Rr` is not `2RR`.
    """
    if not re.search(r"[^a-zA-Z\s,.;'-]", re.sub(r"\\text(?=\{)|[{}]", "", answer)):
        answer = _WORD.sub(lambda match: match[0].casefold(), answer)
    text = re.sub(r"\\text\{([^{}]*)\}", lambda match: _WORD.sub(lambda word: word[0].casefold(), match[1]), answer)
    text = squeezed(text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return re.sub(r"\((\w)\)", r"\1", text) if re.fullmatch(r"\(\w\)", text) else text


def without_percent(answer: str) -> str:
    """A percentage above 1 % without its sign, which a question for a percentage makes needless."""
    match = re.fullmatch(rf"({_PLAIN_NUMBER})\\%", answer)
    return match[1] if match and abs(float(match[1])) > 1 else answer


# A word differs from a product of letters by a vowel after its first letter and by its case, or by being a common one.
_WORD = re.compile(
    r"(?<![\\a-zA-Z])(?:[A-Za-z](?=[a-z]*[aeiouy])[a-z]{2,}|[A-Z](?=[A-Z]*[AEIOUY])[A-Z]{3,}"
    r"|(?i:yes|no|odd|and|or|none|all|am|pm))(?![a-zA-Z])"
)
_BASE = re.compile(r"(-?)\(?([\da-zA-Z.]*)\)?\s*_\s*(?:\{\s*(?:\\text\{)?\s*(\w+)\s*\}?\s*\}|(\w))")


def split_base(answer: str) -> tuple[str, int | None]:
    """Digits and base of a number such as `52_8`; (`answer`, None) for everything else."""
    match = _BASE.fullmatch(answer.strip())
    if match:
        base = _NUMBERS.get(match[3] or match[4], match[3] or match[4])
        if re.fullmatch(r"[1-9]\d?", base) and _is_number(match[2], int(base)):
            return match[1] + (match[2].lower().lstrip("0") or "0"), int(base)
    return answer.strip(), None


def _is_number(text: str, base: int) -> bool:
    r"""Return True for a number in `base`, not for a variable with an index (a_{12}) or a multiple of one (2a_{12})."""
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text) and not (
        len(text) > 1 and re.fullmatch(r"[0-9A-Z]+" if base != 16 else r"[0-9A-F]+|[0-9a-f]+", text)
    ):
        return False
    return all(_DIGITS.index(digit) < base for digit in text.lower().replace(".", ""))


_POWERS = ("sq", "square", "cu", "cubic")
_SCALES = {"C", "F", "K"}
# Names of one unit share a line; the first is its name. Words of four letters and more need not be listed.
_UNIT_NAMES = """
mm millimeter millimetre
cm centimeter centimetre
m meter metre
km kilometer kilometre
in inch inche
ft foot feet
yd yard
mi mile
mg milligram
g gram
kg kilogram
oz ounce
lb pound
ms millisecond
s sec second
min minute
h hr hour
day
week
month
yr year
ml milliliter millilitre
l liter litre
cent
dollar
deg degree
rad radian
am
pm
cc
gal
qt
mph
kmh
kph
Hz
kHz
kN
kJ
kW
MW
mW
kWh
MHz
N newton
J joule
W watt
V volt
C celsius
F fahrenheit
K kelvin
"""
_SAME_UNIT = {alias: row.split()[0] for row in _UNIT_NAMES.strip().split("\n") for alias in row.split()}
_SHORT_UNITS = "|".join(
    name for name in [*_POWERS, *_SAME_UNIT, *(f"{name}s" for name in _SAME_UNIT)] if 1 < len(name) < 5
)
_NO_UNITS = {
    "also",
    "cubed",
    "each",
    "factorial",
    "less",
    "minus",
    "and",
    "more",
    "or",
    "none",
    "plus",
    "squared",
    "than",
    "times",
    "with",
}
_UNIT = re.compile(
    r"(?P<value>.*?[\d})!]|.*\\pi)\s*"
    r"(?P<unit>(?:\\text\{[^{}]*\}|\\degree\s*[CF]?"
    rf"|(?<![a-zA-Z\\])(?:{_SHORT_UNITS}|(?=[a-z]*[aeiou])[a-z]{{4,}})(?![a-zA-Z]))"
    r"(?:[\s.]|\\text\{[^{}]*\}|\^\s*(?:\{\s*-?\d\s*\}|-?\d)|/|\\cdot|(?<![a-zA-Z\\])[a-zA-Z]+)*)"
)


def split_unit(answer: str) -> tuple[str, str]:
    """Return value and unit of a quantity; the unit is its one name if it is a common one, else "".

    Only what stands at the end is a unit, and only after a value without any other text.
    """
    match = _UNIT.fullmatch(answer)
    if not match or r"\text" in match["value"] or not re.search(r"\d|\\pi", match["value"]):
        return answer, ""
    words = re.findall(r"(?<!\\)\b[a-zA-Z]+", match["unit"])
    if _NO_UNITS.intersection(map(str.lower, words)):
        return answer, ""
    names = [_unit_name(word) for word in words]
    if (words and words[0].lower() in _POWERS) or (names[:1] == ["deg"] and _SCALES.intersection(names)):
        names = names[1:]
    return match["value"].strip(), names[0] if names else ""


def _unit_name(word: str) -> str:
    return next(filter(None, map(_SAME_UNIT.get, (word, word.lower(), word.lower().removesuffix("s")))), "")


def units_differ(gold: str, answer: str) -> bool:
    """Return whether two names of units are both known and of different units; degrees may be those of any scale."""
    names = {gold, answer}
    return "" not in names and len(names) == 2 and not ("deg" in names and names & _SCALES)


_SUBSCRIPT = r"\s*_\s*(?:\w|\\[a-zA-Z]+|\{(?:[^{}]|\{[^{}]*\})*\})"
_NAME = re.compile(
    rf"(?:\\(?:max|min|sup|inf|lim|angle|triangle|operatorname)(?![a-zA-Z])(?:{_SUBSCRIPT})?\s*|m\s*\\angle\s*)*"
    r"(?:\\text\{[^{}]*\}|\\overline\s*\{[A-Z]+\}|\|[A-Z]+\||[A-Z]{1,3}|[a-zA-Z]|\\[a-zA-Z]+)'*"
    rf"(?:{_SUBSCRIPT}|\s*'+|\s*\^\s*\{{?\s*\*\s*\}}?)*\s*(?:\([^()]*\))?\s*"
)


def split_name(answer: str) -> tuple[str, str]:
    """Return name and value of a value that has a name, such as `P(A | B) = 5`; ("", `answer`) for everything else."""
    depth, equals = 0, []
    for match in re.finditer(r"\\[a-zA-Z]+|\\.|[()\[\]{}]|[=<>]", answer):
        if match[0] in ("=", "<", ">"):
            equals += [match.start()] * (depth == 0)
        elif len(match[0]) == 1:
            depth += 1 if match[0] in "([{" else -1
    if len(equals) == 1 and answer[equals[0]] == "=" and _NAME.fullmatch(answer[: equals[0]].strip()):
        return answer[: equals[0]].strip(), answer[equals[0] + 1 :].strip()
    return "", answer


_CHAIN = re.compile(r"(.*?)(>|\\g(?:eq?q?|eqslant|t)(?![a-zA-Z]))(.*?)(>|\\g(?:eq?q?|eqslant|t)(?![a-zA-Z]))(.*)")


def rising(condition: str) -> str:
    r"""Return a condition such as `3 \ge x > 0` the other way round, and every other text as it is."""
    chain = _CHAIN.fullmatch(condition)
    if not chain or re.search(r"[<>=,]|\\(?:[lg]eq?|l(?:or|and))(?![a-zA-Z])", chain[1] + chain[3] + chain[5]):
        return condition
    low, high = ("<" if sign in (">", r"\gt") else r"\le " for sign in (chain[4], chain[2]))
    return f"{chain[5]}{low}{chain[3]}{high}{chain[1]}"


def without_indices(answer: str) -> str:
    """Return the roots `x_1=2, x_2=3` as `x=2, x=3`, and every other text as it is."""
    roots = [re.fullmatch(r"\s*([a-zA-Z])\s*_\s*\{?\s*(\d)\s*\}?\s*=([^=<>]*)", root) for root in answer.split(",")]
    names = [(root[1], root[2]) for root in roots if root]
    if len(roots) < 2 or len(names) < len(roots) or len({name for name, _ in names}) > 1 or len({*names}) < len(names):
        return answer
    return ",".join(f"{root[1]}={root[3]}" for root in roots if root)
