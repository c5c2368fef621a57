"""The doctor's look at what is installed: Python, verl, this plugin, the inference engine, flash attention."""

import base64
import hashlib
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import verl
from verl import sdpo
from verl.sdpo import SUPPORTED_VERL
from verl.sdpo.checks import describe
from verl.sdpo.doctor.finding import FAIL, OK, WARN, Finding

PYTHONS = ((3, 10), (3, 12))
# Oldest version, and module. verl refuses older ones of vLLM (verl/third_party/vllm/__init__.py). For SGLang it states
# no minimum; this is the oldest that its code provides for (workers/rollout/sglang_rollout/async_sglang_server.py).
ENGINES = {"vllm": ("0.18.0", "verl.third_party.vllm"), "sglang": ("0.5.5", "sglang")}
INSTALL = "Install it as docs/installation.md says."


def check_python() -> Finding:
    found = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]} at {sys.executable}"
    if PYTHONS[0] <= tuple(sys.version_info[:2]) <= PYTHONS[1]:
        return Finding(OK, "Python", found)
    return Finding(FAIL, "Python", found, "verl 0.9.1 and this package need Python 3.10, 3.11 or 3.12.")


def check_verl(module=verl) -> Finding:
    """Check that the verl that Python imports is the released one, unchanged."""
    reinstall = f"pip install --force-reinstall --no-deps verl=={SUPPORTED_VERL}"
    try:
        distribution = importlib.metadata.distribution("verl")
    except importlib.metadata.PackageNotFoundError:
        return Finding(FAIL, "verl", f"{module.__path__[0]}, which no package manager installed", reinstall)
    imported = Path(module.__file__).resolve()
    installed = Path(str(distribution.locate_file("verl/__init__.py"))).resolve()
    if imported != installed:
        return Finding(
            FAIL,
            "verl",
            f"{imported.parent} hides the installed one at {installed.parent}",
            "Start from another folder, remove that one from PYTHONPATH, or, if it is an editable installation: "
            + reinstall,
        )
    if distribution.version != SUPPORTED_VERL:
        return Finding(FAIL, "verl", f"{distribution.version}, but SDPO plugs into {SUPPORTED_VERL} only", reinstall)
    origin = distribution.read_text("direct_url.json")
    if origin:
        found = f"{distribution.version} from {json.loads(origin)['url']}, not from a release"
        return Finding(WARN, "verl", found, reinstall)
    changed = changed_files(distribution)
    if changed:
        return Finding(WARN, "verl", f"{distribution.version}, but edited: {', '.join(changed[:3])} ...", reinstall)
    return Finding(OK, "verl", f"{distribution.version}, as released")


def changed_files(distribution: importlib.metadata.Distribution) -> list[str]:
    """Python files of a distribution that are missing or differ from what its wheel brought."""
    changed = []
    for file in distribution.files or []:
        if file.suffix == ".py" and file.hash:
            path = Path(file.locate())
            digest = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                changed.append(str(file))
    return changed


def import_error(name: str) -> Exception | None:
    """Return what importing a module raises.

    It runs code of other packages, which fails in any way: a library that does not load is an OSError, one built for
    another torch a RuntimeError.
    """
    try:
        importlib.import_module(name)
    except Exception as error:
        return error
    return None


def check_checkout() -> Iterator[Finding]:
    """Check that the code that runs is that of the repository whose scripts start it (SDPO_REPO, set by train.sh).

    A container brings the code that it was built with, and its `user.yaml`; the scripts are those that are mounted.
    """
    repository = os.environ.get("SDPO_REPO")
    if not repository:
        return
    used, wanted = Path(sdpo.__file__).parent, Path(repository) / "verl" / "sdpo"
    if wanted.is_dir() and used.samefile(wanted):
        yield Finding(OK, "code", str(used))
        return
    found = f"{used} runs, with the user.yaml beside it, but the run was started from {repository}"
    fix = f"In a container mount it over {used.parents[1]} as well; or pip install --no-deps -e {repository}"
    yield Finding(FAIL, "code", found, fix)


def check_plugin() -> Finding:
    """Check that `import verl` loaded this plugin, whose exceptions verl hides."""
    subject = "plugin"
    points = importlib.metadata.entry_points(group="verl.plugins", name="sdpo")
    if not points:
        return Finding(FAIL, subject, "not installed: verl finds it by its entry point", "pip install --no-deps -e .")
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip()
    if policy.lower() != "auto" and "sdpo" not in policy.lower().split(","):
        return Finding(
            FAIL,
            subject,
            f"switched off by VERL_USE_EXTERNAL_PLUGINS={policy}",
            "Unset the variable, or add sdpo to its list.",
        )
    # The second needs TransferQueue and most of verl, as every training run does.
    for module in ("verl.sdpo.plugin", "verl.trainer.ppo.v1"):
        error = import_error(module)
        if error:
            return Finding(FAIL, subject, describe(error), f"A dependency is missing or broken. {INSTALL}")
    from verl.sdpo import plugin
    from verl.trainer.ppo.v1 import get_trainer_cls

    try:
        trainer = get_trainer_cls("sdpo")
    except ValueError as error:
        return Finding(FAIL, subject, f"{plugin.__file__} registered nothing: {error}", INSTALL)
    found = f"sdpo {importlib.metadata.version('sdpo')} registered {trainer.__name__} ({plugin.__file__})"
    return Finding(OK, subject, found)


def check_engine(name: str) -> Finding:
    """Check that the inference engine is installed, of a version that verl accepts, and can be imported."""
    if name not in ENGINES:
        return Finding(WARN, "rollout", f"engine {name} is not known here", f"Use one of {', '.join(ENGINES)}.")
    from packaging.version import Version

    minimum, module = ENGINES[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(FAIL, name, "not installed", INSTALL)
    if Version(version) < Version(minimum):
        return Finding(FAIL, name, f"{version}, but verl {SUPPORTED_VERL} provides for {minimum} and newer", INSTALL)
    error = import_error(module)
    if error:
        return Finding(FAIL, name, f"{version}: {describe(error)}", f"It does not fit the other packages. {INSTALL}")
    return Finding(OK, name, f"{version} (verl provides for {minimum} and newer)")


def check_attention(model) -> Finding:
    """Check that the attention that the configuration asks for is there. `model`: `actor_rollout_ref.model`."""
    subject = "attention"
    wanted = (model["override_config"] or {}).get("attn_implementation", "flash_attention_2")
    needs_flash = wanted.startswith("flash_attention") or model["use_remove_padding"]
    found = f"{wanted}, use_remove_padding={model['use_remove_padding']}"
    if not needs_flash:
        return Finding(OK, subject, f"{found}: works without flash-attn, slower")
    try:
        flash = importlib.import_module("flash_attn").__version__
    except ImportError as error:
        return Finding(
            FAIL,
            subject,
            f"{found}, but flash-attn cannot be imported: {error}",
            "Install requirements-cuda.txt, or go without: "
            "+actor_rollout_ref.model.override_config.attn_implementation=sdpa "
            "actor_rollout_ref.model.use_remove_padding=False",
        )
    return Finding(OK, subject, f"{found}, flash-attn {flash}")
