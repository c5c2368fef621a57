from xdist.scheduler import LoadScopeScheduling


class WholeRunsApart(LoadScopeScheduling):
    """Keep a file in one process, and run trainings, which need all cores and share a socket, one at a time."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config, log):
    return WholeRunsApart(config, log)
