import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """For `--dist loadgroup`: a file stays in one process, and whole runs, which need all cores, come one at a time."""
    for item in items:
        is_whole_run = item.path.parent.name == "e2e"
        item.add_marker(pytest.mark.xdist_group("whole-runs" if is_whole_run else str(item.path)))
