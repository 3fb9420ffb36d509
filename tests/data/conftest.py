import pytest


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(TSDYN_DATA, TSDYN_CACHE): two empty folders."""
    own, cache = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    monkeypatch.setenv("TSDYN_DATA", str(own))
    monkeypatch.setenv("TSDYN_CACHE", str(cache))
    return own, cache
