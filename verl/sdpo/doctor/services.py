"""The doctor's look at what a run relies on beside verl: sockets, the sandbox for programs, wandb."""

import os
import tempfile
from collections.abc import Iterator, Mapping

from verl.sdpo.checks import describe
from verl.sdpo.doctor.finding import FAIL, OK, WARN, Finding
from verl.sdpo.doctor.wandb_login import has_login, server

# Of a Unix socket, on Linux.
LONGEST_PATH = 107


def socket_paths(config: Mapping) -> dict[str, str]:
    """Paths as long as those of the Unix sockets that Ray and vLLM will make, by the setting that decides them."""
    settings = config["ray_kwargs"]["ray_init"]
    paths = {}
    # A Ray that runs already has its sockets.
    if not (settings.get("address") or os.environ.get("RAY_ADDRESS")):
        variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        folder = settings.get("_temp_dir")
        name = "ray_kwargs.ray_init._temp_dir" if folder else variable
        folder = folder or os.path.join(os.environ.get(variable, "/tmp"), "ray")
        # ray/_private/node.py: _session_name, _init_temp, _prepare_socket_file. The trainer's process number will be
        # another, hardly ever with more digits.
        session = f"session_2026-01-31_23-59-59_999999_{os.getpid()}"
        paths[name] = os.path.join(folder, session, "sockets", "plasma_store")
    if config["actor_rollout_ref"]["rollout"]["name"] == "vllm":
        # vllm/utils/network_utils.py: get_open_zmq_ipc_path, with a uuid4.
        variable = "VLLM_RPC_BASE_PATH" if "VLLM_RPC_BASE_PATH" in os.environ else "TMPDIR"
        paths.setdefault(variable, os.path.join(os.environ.get(variable, tempfile.gettempdir()), "u" * 36))
    return paths


def check_sockets(config: Mapping) -> Finding:
    """Check that Ray and vLLM can make their Unix sockets: the kernel allows a path of 107 bytes."""
    subject = "sockets"
    lengths = {name: len(os.fsencode(path)) for name, path in socket_paths(config).items()}
    for name, length in lengths.items():
        if length > LONGEST_PATH:
            found = f"{name} is {length - LONGEST_PATH} bytes too long: a socket in it needs {length} of {LONGEST_PATH}"
            fix = "Set TMPDIR to a shorter folder on a local disk, or RAY_TMPDIR and VLLM_RPC_BASE_PATH."
            return Finding(FAIL, subject, found, fix)
    return Finding(OK, subject, f"paths of at most {max(lengths.values(), default=0)} of {LONGEST_PATH} bytes")


def check_sandbox() -> Finding:
    """Check how far this machine can confine model-written programs."""
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


def check_wandb(loggers) -> Iterator[Finding]:
    """Check that wandb, if it is a logger, will know who logs in; it asks on the terminal otherwise."""
    if "wandb" not in ([loggers] if isinstance(loggers, str) else loggers or []):
        return
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        yield Finding(OK, "wandb", f"WANDB_MODE={mode}")
    elif has_login():
        yield Finding(OK, "wandb", f"there is a login for {server()}")
    else:
        fix = "wandb login, or WANDB_MODE=offline, or a trainer.logger without wandb."
        yield Finding(WARN, "wandb", f"no login for {server()}", fix)
