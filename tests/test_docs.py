"""The code that the pages show runs, their links lead somewhere, and generated pages are current."""

import json
import re
import sysconfig
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from tests import keys
from tests.sdpo.rollouts import demonstrations
from verl.sdpo.config import SelfDistillationConfig, defaults
from verl.sdpo.context import DEMONSTRATIONS
from verl.sdpo.head import HEADS, TokenStatistics
from verl.sdpo.objective import OBJECTIVES, Divergence, Tokens
from verl.sdpo.teacher import TEACHERS

REGISTRIES = (OBJECTIVES, TEACHERS, DEMONSTRATIONS, HEADS)
REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGE = DOCS / "algorithm.md"
PLACEHOLDERS = ("setup.py",)


@pytest.fixture
def examples(monkeypatch):
    """Run the page from top to bottom, then unregister its classes."""
    for choices in REGISTRIES:
        for name in choices:
            monkeypatch.setitem(choices, name, choices[name])
    before = [set(choices) for choices in REGISTRIES]
    page: dict = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, page)
    yield page
    for choices, names in zip(REGISTRIES, before, strict=True):
        for name in set(choices) - names:
            del choices[name]


def test_the_objective_weighs_tokens_by_the_students_entropy(examples):
    """Two tokens whose student has the entropies 0 and 2 nats, beta 1/2: weights 0 and 1 - 1/e."""
    config = SelfDistillationConfig(credit="doubtful", doubt_beta=0.5, is_clip=None, distillation_topk=1)
    assert config.ignored == {}
    topk = torch.tensor([[0.5], [0.5]]).log()
    student = TokenStatistics(topk[:, 0], torch.tensor([0.0, 2.0]), None, topk, torch.zeros(2, 1, dtype=torch.long))
    teacher = student._replace(support_log_probs=torch.tensor([[0.9], [0.9]]).log())
    tokens = Tokens(torch.tensor([0, 0]), torch.tensor([2]))
    plain = Divergence(config.objective.config)
    parts = [objective(student, teacher, tokens, torch.ones(2))[0] for objective in (config.objective, plain)]
    assert parts[0].item() == pytest.approx(parts[1].item() / 2 * (1 - torch.tensor(-1.0).exp().item()))
    assert parts[1] > 0


def test_the_teacher_slows_down_and_resumes(examples):
    class Weights:
        rates: ClassVar[list[float]] = []

        def follow(self, rate):
            self.rates.append(rate)

    config = SelfDistillationConfig(teacher_regularization="slowing", teacher_update_rate=0.5)
    assert config.teacher_class.moves and config.teacher_class.saves
    teacher = config.teacher_class(config.teacher_config, student=None, reference=None, weights=Weights())
    for _ in range(3):
        teacher.after_training_step()
    assert Weights.rates == pytest.approx([1 / 2, 1 / 4, 1 / 6])
    assert teacher.state == {"steps": 3}


def test_the_demonstration_is_the_last_success(examples):
    assert demonstrations([1.0, 1.0, 1.0], demonstration_choice="last") == [2, 2, 1]


def test_the_head_computes_in_double(examples):
    head = examples["DoubleHead"](torch.tensor([1]), Divergence(Divergence.Config(distillation_topk=2)).support)
    statistics = head(torch.ones(1, 3), torch.nn.Linear(3, 5))
    assert statistics.support_log_probs.dtype == torch.float64


def test_the_page_of_keys_is_current():
    """`python -m tests.keys` writes it from the docstrings of the configuration classes."""
    assert keys.PAGE.read_text() == keys.page()
    block = re.findall(r"^- `(\w+)`:", keys.page().split("\n## ")[1], re.MULTILINE)
    assert set(block) == set(defaults())


def test_whether_a_gpu_was_used_is_said():
    """Either a report is committed and its tests are on the page, or the README says plainly that there is none."""
    page, report = (DOCS / "installation.md").read_text(), REPOSITORY / "gpu-report.json"
    assert ("**Never run here**: CUDA" in (REPOSITORY / "README.md").read_text()) != report.exists()
    if report.exists():
        assert all(test["test"] in page for test in json.loads(report.read_text())["tests"])


PAGES = [*REPOSITORY.glob("*.md"), REPOSITORY / "data" / "README.md", *DOCS.glob("*.md")]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_exists(page):
    """Modules by their name, those of stock verl and its dependencies by their path in site-packages."""
    modules = {path.name for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts}
    installed = Path(sysconfig.get_paths()["purelib"])
    for path in re.findall(r"`([\w/]+\.py)(?::[\w:]+)?`", page.read_text()):
        assert path in PLACEHOLDERS or path.split("/")[-1] in modules or (installed / path).exists(), path
