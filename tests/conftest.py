from importlib.util import find_spec

from xdist.scheduler import LoadScopeScheduling

# The environment of a GPU has no hypothesis, and its tests need none.
if find_spec("hypothesis"):
    from hypothesis import settings

    # Examples take longer on a busy machine; tests assert no seconds.
    settings.register_profile("patient", deadline=None)
    settings.load_profile("patient")


class WholeRunsApart(LoadScopeScheduling):
    """Keep a file in one process, and run trainings, which need all cores and share a socket, one at a time."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config, log):
    return WholeRunsApart(config, log)
