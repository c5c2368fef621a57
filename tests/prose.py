"""Check the prose of docstrings and documentation: `python -m tests.prose [PATHS]`.

Prints docstrings that begin with a fragment or have no summary line, uses of words that the glossary replaces, the
share of fragments per package, and the words of the documentation. `tests/test_prose.py` holds the limits.
"""

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
CODE = ("verl", "data", "experiments", "benchmarks", "baseline_multiturn")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "data/README.md")
PRODUCT = (*CODE, *PAGES, "docker")
SUFFIXES = (".py", ".md", ".yaml", ".sh", ".env", ".html", ".js", ".css")

RELATIVES = "What Whether Who Whom Whose Which Where Wherever When Whenever Why How That"
PRONOUNS = "It Its They Them Their Theirs Those These None Nothing Nobody Somebody Something Others Ours"
PREPOSITIONS = (
    "Of With Without Within In Into On Onto To Towards From By At For Per Over Under After Before During Between "
    "Beside Besides Since Until Till As Through Against Among Along Out Up About"
)
OTHERS = "If And But Or Nor So Because Than Then Though Although While Unless Lest Else Not Only Also Even"
FRAGMENTS = frozenset(" ".join((RELATIVES, PRONOUNS, PREPOSITIONS, OTHERS)).split())
# "Each that fits" is a pronoun with its relative; "Each task as (train, test)" is a noun phrase.
PRONOUN_AND_RELATIVE = re.compile(
    r"(All|Any|Both|Each|Either|Every|Many|Most|Neither|One|Several|Some) (that|which|who)\b"
)
SECTION = re.compile(r"(Args|Arguments|Attributes|Examples?|Notes?|Raises|Returns|Yields):")


class Term(NamedTuple):
    """Words that the glossary replaces, in files below `where`."""

    pattern: str
    say: str
    where: tuple[str, ...] = PRODUCT


# Elsewhere these are ordinary words: a doctor's GPUs are wanted, a sandbox has its ends of a socket and the program's.
COMPUTATION = (
    *(
        f"verl/sdpo/{name}.py"
        for name in ("micro_step", "objective", "comparison", "head", "teacher", "prefix", "model")
    ),
    *(f"verl/sdpo/{package}" for package in ("engine", "memory", "probe", "trainer", "loss.py", "routing.py")),
    "benchmarks",
)
WITHOUT_GRADERS = ("verl/sdpo", "verl/trainer", *PRODUCT[1:])
TERMS = (
    Term(r"\b(\w+_)?wanted(_[A-Z]+)?\b", "loss mask, distill mask", COMPUTATION),
    Term(r"\bdistilled_BT\b|\bmarks\b", "distill mask", ("verl/sdpo",)),
    Term(r"(?<!of )\b(ours|theirs)\b", "student_stats, teacher_stats; name what is meant", WITHOUT_GRADERS),
    Term(r"[Ww]hat (the|a|its) teacher (says|said)\b", "teacher statistics"),
    Term(
        r"\w*Outcomes\b|\b(\w+_)?outcomes\b",
        "support",
        ("verl/sdpo", "benchmarks/head.py", "benchmarks/step.py", "docs/algorithm.md"),
    ),
    Term(
        r"\b[Ll]ines? of( \S+){0,2} tokens\b|[Ss]hared_?[Ll]ines?\b|\b[Ss]hared lines?\b|\bin_line\b", "packed sequence"
    ),
    Term(
        r"\bhas_targets?\b|\b(has|have|had|having) (a|no) target\b|\bno target\b|\bknows? something\b",
        "has a teacher context",
    ),
    Term(r"\bordinary memory\b|\brests\b|\bweights rest\b|\brest (in|on)\b", "offloaded to host memory, is kept in"),
    Term(r"\btorn\b|\btear (?!down)|\btears?\b(?! down)", "incomplete (checkpoint), cut off"),
    Term(r"\bwhole checkpoint|\bcheckpoints?\b.{0,40}\bwhole\b", "complete (checkpoint)"),
    Term(r"\b(is|are|for) whole\b", "complete (checkpoint)", ("verl/sdpo/runs", "verl/sdpo/trainer")),
    Term(r"\b[Ss]eal(s|ed|ing)?\b|\bSEAL\b", "manifest, commit", ("verl/sdpo", "docs", "experiments", *PAGES)),
    Term(r"\b[Hh]and-?overs?\b|\b[Hh]and(s|ed|ing)? over\b", "weight sync; pass"),
    Term(r"\b[Mm]end(s|ed|ing)?\b", "fix"),
    Term(r"\b(is|are|was|were|be|been|being) (\w+ )?told\b(?! apart)", "reported, passed"),
    Term(r"\b([Hh]eld|[Hh]olds?|[Hh]olding) against\b", "compared with"),
    Term(
        r"\b(this|that|the|two|of a) doors?\b|\bcorridors?\b|\b(this|the|our) (house|room)\b",
        "package, module, wrapper",
    ),
    Term(r"\b[Ll]ooks? on\b(?! disk)|\b[Ss]omebody who\b", "callback, hook"),
    Term(r"\bhours of steps\b", "training time (h)"),
)


class Allowed(NamedTuple):
    """A legitimate use of a replaced word."""

    path: str
    pattern: str
    reason: str


ALLOWED = (
    Allowed("verl/sdpo/runs/", r"sealed\.json", "a file on disk"),
    Allowed("benchmarks/quickstart.py", r"\bours\b", "the name of a system on the command line"),
    Allowed("docs/performance.md", r"--systems ours", "a command"),
    Allowed("verl/sdpo/runs/", r'"has_target"', "a column of the dump on disk"),
    Allowed("verl/sdpo/trainer/", r'"has_target"', "a column of the dump on disk"),
    Allowed("verl/sdpo/report/", r"\bhas_target\b", "a column of the dump on disk"),
)


class Docstring(NamedTuple):
    """A docstring of a module, class or function, or the string below a field."""

    path: Path
    line: int
    text: str

    @property
    def summary(self) -> str:
        """First line, which has to say what the thing is."""
        return self.text.split("\n", 1)[0].strip()

    @property
    def is_fragment(self) -> bool:
        """True if the text begins with a relative, pronoun, preposition or conjunction and is no question."""
        if re.match(r"[^.:;]*\?", self.text):
            return False
        words = self.text.split(maxsplit=1)
        return bool(words) and (
            words[0].rstrip(",.:;") in FRAGMENTS or bool(PRONOUN_AND_RELATIVE.match(" ".join(self.text.split())))
        )

    @property
    def has_summary(self) -> bool:
        """True unless the first line is empty or the head of a section."""
        return bool(self.summary) and not SECTION.match(self.summary)

    @property
    def package(self) -> str:
        """Package to which the shares belong."""
        folders = relative(self.path).parts[:-1]
        return "/".join(folders[: 3 if folders[:2] == ("verl", "sdpo") else 5])

    def __str__(self) -> str:
        return f"{relative(self.path)}:{self.line}: {self.summary[:90]}"


def relative(path: Path) -> Path:
    """The path from the repository's root, if it is below that."""
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


def files(paths: Iterable[str], suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """Yield the files below `paths` that hold prose, each once."""
    seen = set()
    for path in (REPOSITORY / name for name in paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in suffixes and file.is_file() and file not in seen:
                seen.add(file)
                yield file


def docstrings(path: Path) -> Iterator[Docstring]:
    """Yield the docstrings of a Python file, those below fields included."""
    for node in ast.walk(ast.parse(path.read_text())):
        body: list[ast.stmt] = getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []
        for i, statement in enumerate(body):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            text = statement.value.value
            owns = i == 0 and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            follows_field = i > 0 and isinstance(body[i - 1], ast.Assign | ast.AnnAssign)
            if isinstance(text, str) and (owns or follows_field):
                yield Docstring(path, statement.lineno, text)


def replaced_words(path: Path) -> Iterator[str]:
    """Yield one line for each use of a word that the glossary replaces."""
    name = relative(path).as_posix()
    terms = [term for term in TERMS if any(name.startswith(where) for where in term.where)] or list(TERMS)
    allowed = [each.pattern for each in ALLOWED if name.startswith(each.path)]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for pattern in allowed:
            line = re.sub(pattern, "", line)
        for term in terms:
            for found in re.finditer(term.pattern, line):
                yield f"{name}:{number}: {found.group().strip()!r}, say: {term.say}"


def shares(found: Iterable[Docstring]) -> dict[str, tuple[int, int]]:
    """Fragments and docstrings of each package."""
    fragments: Counter[str] = Counter()
    total: defaultdict[str, int] = defaultdict(int)
    for docstring in found:
        total[docstring.package] += 1
        fragments[docstring.package] += docstring.is_fragment
    return {package: (fragments[package], total[package]) for package in sorted(total)}


def words() -> dict[str, int]:
    """Words of each page of the documentation, as `wc -w` counts them."""
    return {relative(path).as_posix(): len(path.read_text().split()) for path in files(PAGES, (".md",))}


def main(paths: list[str]) -> int:
    """Print every finding below the paths; returns 1 if there is one."""
    sources = list(files(paths or PRODUCT))
    found = [docstring for path in sources if path.suffix == ".py" for docstring in docstrings(path)]
    findings = [f"fragment    {docstring}" for docstring in found if docstring.is_fragment]
    findings += [f"no summary  {docstring}" for docstring in found if not docstring.has_summary]
    findings += [f"word        {use}" for path in sources for use in replaced_words(path)]
    print("\n".join(findings))
    for package, (fragments, total) in shares(found).items():
        print(f"{package:42} {fragments:4} of {total:4} docstrings are fragments, {fragments / total:.1%}")
    print(f"{'all':42} {sum(d.is_fragment for d in found):4} of {len(found):4}")
    if not paths:
        print("words of documentation:", sum(words().values()))
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
