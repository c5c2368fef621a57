"""The doctor's look at what a run relies on beside verl: the sandbox for programs, wandb."""

import os
from collections.abc import Iterator
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlparse

from verl.sdpo.doctor.finding import OK, WARN, Finding, describe


def check_sandbox() -> Finding:
    """How far this machine can confine model-written programs."""
    from verl.utils.reward_score.feedback.sandbox.api import SandboxConfig
    from verl.utils.reward_score.feedback.sandbox.canaries import examine

    subject = "sandbox"
    try:
        config = SandboxConfig.from_env()
        if config.remote_url:
            return Finding(OK, subject, f"programs run at {config.remote_url}")
        machine = examine(config)
    except (ValueError, RuntimeError, OSError) as error:
        return Finding(WARN, subject, describe(error), "Programs cannot be graded here. See docs/rewards.md.")
    found = f"level {machine.level.name}, the least allowed is {config.min_level.name}"
    if machine.level >= config.min_level:
        return Finding(OK, subject, found)
    needs = " ".join(machine.shortcomings(config.min_level).split())
    return Finding(WARN, subject, f"{found}: programs cannot be graded here", needs)


def has_login(file: Path, host: str) -> bool:
    try:
        return file.is_file() and netrc(file).authenticators(host) is not None
    except NetrcParseError:
        return False


def check_wandb(loggers) -> Iterator[Finding]:
    """Whether wandb, if it is a logger, will know who logs in; it asks on the terminal otherwise."""
    if "wandb" not in ([loggers] if isinstance(loggers, str) else loggers or []):
        return
    mode = os.environ.get("WANDB_MODE", "online")
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    files = [Path(name).expanduser() for name in (os.environ.get("NETRC", "~/.netrc"), "~/_netrc")]
    if mode != "online":
        yield Finding(OK, "wandb", f"WANDB_MODE={mode}")
    elif os.environ.get("WANDB_API_KEY") or any(has_login(file, host) for file in files):
        yield Finding(OK, "wandb", f"there is a login for {host}")
    else:
        fix = "wandb login, or WANDB_MODE=offline, or a trainer.logger without wandb."
        yield Finding(WARN, "wandb", f"no login for {host}", fix)
