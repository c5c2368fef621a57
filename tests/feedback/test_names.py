"""The graders' modules may be run as scripts, which puts their folder first on Python's path."""

import sys
from pathlib import Path

import verl.utils.reward_score.feedback as feedback


def test_no_module_shadows_the_standard_library():
    names = {path.stem for path in Path(feedback.__file__).parent.rglob("*.py")}
    assert names & sys.stdlib_module_names == set()
