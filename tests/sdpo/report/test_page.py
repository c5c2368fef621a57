"""The report in a browser: what a person sees, hovers and types. The runs are made up (synthetic.py)."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.sdpo.report.browser import CHROMIUM, Page
from tests.sdpo.report.synthetic import make_run, record
from verl.sdpo.head import TokenStatistics
from verl.sdpo.objective import OBJECTIVES, Tokens
from verl.sdpo.report.page import build
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.runs.reader import Run, methods

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt install chromium)")
TOKENS = 12


def command(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "verl.sdpo.report", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env={**os.environ, "VERL_PLATFORM": "cpu"})


def gradient_signs(log_probs: torch.Tensor, teacher_log_probs: torch.Tensor) -> torch.Tensor:
    """Of what the sampled-token objective adds to each token's log-probability in a step down its gradient."""
    student = log_probs.clone().requires_grad_()
    objective = OBJECTIVES["sampled-token"](OBJECTIVES["sampled-token"].Config(alpha=1.0))
    tokens = Tokens.of(torch.ones(1, len(student), dtype=torch.bool))
    statistics = (TokenStatistics(values, torch.zeros_like(values)) for values in (student, teacher_log_probs))
    loss, _ = objective(*statistics, tokens, torch.ones(len(student)))
    loss.backward()
    return -student.grad.sign()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A page about three runs, and the gradient's signs at the tokens of its first response."""
    folder = tmp_path_factory.mktemp("report")
    runs = [
        make_run(folder / f"{name}{seed}", algorithm=name, seed=seed)
        for name, seed in (("sdpo", 0), ("sdpo", 1), ("grpo", 0))
    ]
    generator = torch.Generator().manual_seed(0)
    student, teacher = -3 * torch.rand(2, TOKENS, generator=generator)
    first = record(4, 0, 0, TOKENS, random.Random(0)) | {"log_ratio": (teacher - student).tolist()}
    others = [record(4, group, member, TOKENS, random.Random(1)) for group in range(2) for member in range(4)]
    dump.write(runs[0] / "rollouts" / "insight" / "4.parquet", [first, *others[1:]])
    done = command(*runs, "--out", folder / "report.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Report: {folder / 'report.html'}\n"
    return folder / "report.html", gradient_signs(student, teacher)


@pytest.fixture(scope="module")
def page(report):
    with Page(report[0].as_uri()) as page:
        yield page
        assert page.errors == []


@needs_browser
def test_every_section_is_there(page):
    assert page.run("[...document.querySelectorAll('section')].map((s) => s.id)") == [
        *("runs", "wrong", "tables", "curves", "samples")
    ]
    captions = page.run("[...document.querySelectorAll('figcaption')].map((c) => c.textContent)")
    assert len(captions) >= 9
    for word in (
        "Validation accuracy",
        "Response length",
        "Loss",
        "KL",
        "Entropy",
        "Distance",
        "Coverage",
        "Seconds",
        "Memory",
    ):
        assert any(word in caption for caption in captions), word
    assert page.run("document.querySelectorAll('.plot .main-svg').length") >= len(captions)
    # Two methods: two lines in a legend, and for SDPO's two seeds a band.
    names = "[...document.querySelectorAll('figure')[0].querySelectorAll('.legendtext')].map((t) => t.textContent)"
    assert page.run(names) == ["SDPO", "GRPO"]
    assert page.run("document.querySelectorAll('figure')[0].querySelectorAll('path.js-fill').length") == 1
    assert "SDPO minus" not in page.run("document.querySelector('#tables').textContent")
    assert "GRPO minus SDPO" in page.run("document.querySelector('#tables').textContent")


@needs_browser
def test_the_legend_names_every_colour(page):
    """The words and the colours of the tokens come from one table."""
    legend = "Blue: the teacher's probability is higher than the student's; red: lower; grey: not scored."
    assert page.run("document.getElementById('legend').textContent") == legend


FIRST = "document.querySelector('.member[data-attempt=\"0\"] .tokens')"


@needs_browser
def test_colours_say_where_a_gradient_step_moves_each_token(page, report):
    """Blue where the token's log-probability rises, red where it falls."""
    colours = page.run(f"[...{FIRST}.children].map((t) => getComputedStyle(t).backgroundColor)")
    channels = [tuple(map(int, re.findall(r"\d+", colour))) for colour in colours]
    signs = [(blue > red) - (red > blue) for red, _, blue in channels]
    assert signs == report[1].int().tolist()
    assert {1, -1} == set(signs)


@needs_browser
def test_hover_tells_the_alternatives_of_both(page):
    page.run("document.querySelector('.member').scrollIntoView()")
    box = page.run(f"{FIRST}.children[2].getBoundingClientRect().toJSON()")
    page.move_to(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    text = page.run("document.getElementById('hover').innerText")
    assert not page.run("document.getElementById('hover').hidden")
    ratio = page.run(f"{FIRST}.children[2].dataset.ratio")
    assert f"log q - log π  {ratio} nats" in text
    assert re.search(r"entropy of the student  \d\.\d\d nats\nentropy of the teacher  \d\.\d\d nats", text)
    assert page.run("document.querySelectorAll('#hover tr').length") == 1 + 3
    assert text.count("%") == 6


@needs_browser
def test_keys_walk_over_tokens_steps_and_groups(page):
    page.run(f"{FIRST}.focus()")
    for _ in range(3):
        page.press("ArrowRight")
    assert page.run(f"[...{FIRST}.children].findIndex((t) => t.classList.contains('current'))") == 2
    assert page.run("document.getElementById('hover').innerText").startswith("position 2")
    page.run("document.activeElement.blur()")
    before = page.run("[step.value, group.value]")
    page.press("p")
    page.press("j")
    assert before == ["4", "group0"]
    assert page.run("[step.value, group.value]") == ["3", "group1"]
    assert page.run("location.hash") == "#samples/0/3/group1"
    page.press("n")
    page.press("k")
    assert page.run("[step.value, group.value]") == ["4", "group0"]


@needs_browser
@pytest.mark.parametrize(
    ("name", "members"),
    [("solved", 1), ("failed", 3), ("truncated", 2), ("no_context", 1)],
)
def test_filters(page, name, members):
    page.run(f"document.querySelector('input[name={name}]').click()")
    assert page.run("document.querySelectorAll('.member').length") == members
    page.run(f"document.querySelector('input[name={name}]').click()")
    page.run("{ group.value = 'group0'; group.dispatchEvent(new Event('change')); }")
    assert page.run("document.querySelectorAll('.member').length") == 4


@needs_browser
def test_texts_of_a_run_are_no_markup(page):
    assert page.run("document.querySelectorAll('#shown b, #shown i').length") == 0
    assert "Wrong: <i>1</i>" in page.run("document.querySelector('#shown').textContent")


@needs_browser
def test_the_strip_has_a_row_for_each_response(page):
    """Figure 21. Its first pixels have the colours of the first tokens."""
    size = page.run("[strip.width, strip.height, document.querySelectorAll('.member').length]")
    assert size == [TOKENS, 8 * 6, 4]
    pixel = page.run("[...strip.getContext('2d').getImageData(0, 1, 1, 1).data].slice(0, 3).join(', ')")
    assert f"rgb({pixel})" == page.run(f"{FIRST}.children[0].style.backgroundColor")


@needs_browser
def test_a_narrow_screen_needs_no_sideways_scrolling(report):
    with Page(report[0].as_uri(), width=390, height=800) as page:
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.errors == []


def test_a_large_run_is_small_and_quick(tmp_path):
    """10 steps of 256 responses of the quickstart's length."""
    run = make_run(tmp_path / "run", steps=10, groups=32, members=8, tokens=40)
    started = time.monotonic()
    done = command(run, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 20
    size = (tmp_path / "report.html").stat().st_size
    assert 10 * 256 * 40 < size <= 10e6


def test_the_page_names_no_other_place(tmp_path):
    """It opens without a network."""
    page = build(methods([Run(make_run(tmp_path / "run"))]))
    outside = re.sub(r'<script type="text/plain".*?</script>', "", page, flags=re.DOTALL)
    assert not re.findall(r"https?://|@import|url\(", outside)


def test_a_folder_without_a_run_is_told(tmp_path):
    done = command(tmp_path, "--out", tmp_path / "report.html")
    assert done.returncode == 1
    assert f"{tmp_path}: expected the folder of a run, with metrics.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
