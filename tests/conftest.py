from xdist.scheduler import LoadScopeScheduling


class WholeRunsApart(LoadScopeScheduling):
    """A file stays in one process, and whole runs, which need all cores and share a socket, come one at a time."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config, log):
    return WholeRunsApart(config, log)
