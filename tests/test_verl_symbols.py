"""A list freezes every name of verl in use, with its parameters, because verl promises no stability of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import verl_symbols


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, dict[str, str]]]:
    """Return the names that our source takes, looked up in the installed verl."""
    written = tmp_path_factory.mktemp("symbols") / "found.yaml"
    run = subprocess.run(
        [sys.executable, "-m", "tests.verl_symbols", str(written)],
        env={**os.environ, "VERL_PLATFORM": "cpu"},
        cwd=verl_symbols.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return yaml.safe_load(written.read_text())


def lines(symbols: dict[str, dict[str, str]]) -> set[str]:
    return {f"{where}: {name}({given})" for where, names in symbols.items() for name, given in names.items()}


@pytest.mark.parametrize("part", ["taken", "of_objects"])
def test_the_list_is_what_our_source_takes_and_verl_has(found, part):
    expected, installed = lines(verl_symbols.listed()[part]), lines(found[part])
    assert installed - expected == set(), f"not in {verl_symbols.__name__}.yaml"
    assert expected - installed == set(), "in the list, but no longer used, or not so in the installed verl"


def source(monkeypatch, tmp_path: Path, text: str) -> None:
    (tmp_path / "verl").mkdir()
    (tmp_path / "verl" / "ours.py").write_text(text)
    monkeypatch.setattr(verl_symbols, "REPOSITORY", tmp_path)


def test_imports_are_collected(monkeypatch, tmp_path):
    text = """
import transfer_queue as tq
import verl
from verl import __version__
from verl.sdpo.config import is_sdpo
from verl.utils import tensordict_utils as tu
from verl.trainer.ppo.utils import Role as R

def f():
    from verl.utils.reward_score.prime_code import compute_score
    tq.kv_batch_get(), tu.get(), verl.DataProto, R.ActorRollout
"""
    source(monkeypatch, tmp_path, text)
    assert {where: names for where, names in verl_symbols.imported().items() if names} == {
        "transfer_queue": {"kv_batch_get"},
        "verl": {"__version__", "DataProto"},
        "verl.utils.tensordict_utils": {"get"},
        "verl.trainer.ppo.utils": {"Role"},
        "verl.trainer.ppo.utils.Role": {"ActorRollout"},
        "verl.utils.reward_score.prime_code": {"compute_score"},
    }


def test_patches_are_collected(monkeypatch, tmp_path):
    text = """
import wrapt
from vllm.layers import Linear
from verl.sdpo.ours import mine

def patch(module):
    stock = module.validate_config
    module.validate_config = lambda: module.Registry.register(stock)

wrapt.register_post_import_hook(patch, "verl.utils.config")
wrapt.register_post_import_hook(patch, "hydra")
Linear.repack = None
mine.repack = None
"""
    source(monkeypatch, tmp_path, text)
    hooked = {where: names for where, names in verl_symbols.hooked().items() if names}
    assert hooked == {
        "verl.utils.config": {"validate_config", "Registry"},
        "verl.utils.config.Registry": {"register"},
    }
    assert verl_symbols.patched() == {"vllm.layers.Linear": {"repack"}}


def test_overrides_and_uses_of_self_are_collected_through_mixins(monkeypatch, tmp_path):
    text = """
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync as Stock

class Mixin:
    def step(self, metrics):
        self.global_steps += 1
        super().fit()

class Ours(Mixin, Stock):
    async def run(self): ...

class Unrelated:
    def other(self): ...
"""
    source(monkeypatch, tmp_path, text)
    assert verl_symbols.inherited() == {
        "verl.trainer.ppo.v1.trainer_sync.PPOTrainerSync": {"step", "global_steps", "fit", "run"}
    }


def test_a_name_that_verl_lacks_is_an_error(monkeypatch, tmp_path):
    source(monkeypatch, tmp_path, "from verl.utils.config import omega_conf_to_dataclass, gone")
    with pytest.raises(AttributeError, match=r"verl\.utils\.config of verl has no gone"):
        verl_symbols.taken()
