"""Docstrings and pages keep the prose that CONTRIBUTING.md asks for, see `tests/prose.py`."""

from pathlib import Path

import pytest

from tests import prose

FOUND = [docstring for path in prose.files(prose.CODE, (".py",)) for docstring in prose.docstrings(path)]


def test_docstrings_begin_with_sentences_or_noun_phrases():
    fragments = [str(docstring) for docstring in FOUND if docstring.is_fragment]
    assert len(fragments) < 0.05 * len(FOUND), "\n".join(fragments)


@pytest.mark.parametrize("package", prose.shares(FOUND))
def test_a_package_has_few_fragments(package):
    fragments, total = prose.shares(FOUND)[package]
    assert fragments < 0.08 * total, "\n".join(
        str(each) for each in FOUND if each.package == package and each.is_fragment
    )


def test_every_docstring_has_a_summary_line():
    assert [str(docstring) for docstring in FOUND if not docstring.has_summary] == []


def test_no_word_is_left_that_the_glossary_replaces():
    assert [use for path in prose.files(prose.PRODUCT) for use in prose.replaced_words(path)] == []


def test_every_exception_is_needed():
    for allowed in prose.ALLOWED:
        files = [
            path for path in prose.files(prose.PRODUCT) if prose.relative(path).as_posix().startswith(allowed.path)
        ]
        assert any(prose.re.search(allowed.pattern, path.read_text()) for path in files), allowed


def test_the_documentation_stays_short():
    """The page of keys is generated and not counted."""
    words = {page: count for page, count in prose.words().items() if page != "docs/keys.md"}
    assert sum(words.values()) <= 18_000, words


def test_the_readme_stays_short():
    assert len((prose.REPOSITORY / "README.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize(
    ("text", "is_fragment"),
    [
        ("What both need.", True),
        ("Of one training: the median.", True),
        ("(N,) bool.", False),
        ("One that fits.", True),
        ("One response per seed.", False),
        ("Which divergence has a gradient? Prints a table.", False),
        ("At most `WIDTH` of them.", True),
        ("Whole rows.", False),
    ],
)
def test_a_fragment_is_recognised(text, is_fragment):
    assert prose.Docstring(Path("a.py"), 1, text).is_fragment == is_fragment


def test_strings_below_fields_are_docstrings(tmp_path):
    source = (
        '"""Module."""\nclass A:\n    """\n    Raises:\n    """\n    x: int = 1\n    """Of x."""\n    print("no")\n'
    )
    (tmp_path / "a.py").write_text(source)
    found = list(prose.docstrings(tmp_path / "a.py"))
    assert [docstring.summary for docstring in found] == ["Module.", "", "Of x."]
    assert [docstring.has_summary for docstring in found] == [True, False, True]


def test_a_replaced_word_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("The weights rest in ordinary memory.\nThey cannot be told apart; tear down, the rest.\n")
    assert [use.split(":")[1] for use in prose.replaced_words(page)] == ["1", "1"]
