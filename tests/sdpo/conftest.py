import pytest

from tests.e2e.tiny import build_model
from tests.sdpo.distributed import RankGroup


@pytest.fixture(scope="session")
def groups(tmp_path_factory):
    groups = {world_size: RankGroup(world_size, tmp_path_factory.mktemp("ranks")) for world_size in (1, 2)}
    yield groups
    for group in groups.values():
        group.close()


@pytest.fixture(params=[1, 2], ids=["1rank", "2ranks"])
def ranks(request, groups) -> RankGroup:
    return groups[request.param]


@pytest.fixture
def two_ranks(groups) -> RankGroup:
    return groups[2]


@pytest.fixture(params=["fsdp", "fsdp2"])
def strategy(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders of two tiny random models, one with tied embeddings. Their distributions are far from uniform."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: str(build_model(folder / name, tie_word_embeddings=name == "tied", initializer_range=0.2))
        for name in ("tied", "untied")
    }
