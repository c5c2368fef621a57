import pytest


@pytest.fixture(autouse=True)
def logging_stays(monkeypatch):
    """Keep the doctor from switching off the logging of other tests."""
    monkeypatch.setattr("logging.disable", lambda level: None)
