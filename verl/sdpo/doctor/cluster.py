"""The doctor's look at what Ray needs of this machine, and of others."""

import os
import resource
from collections.abc import Iterator, Mapping

from verl.sdpo import on_cpu
from verl.sdpo.checks import describe
from verl.sdpo.doctor.finding import FAIL, OK, WARN, Finding
from verl.sdpo.doctor.machine import gib

# Ray raises the number of open files to the hard limit, and says below which it may fail (ray/_private/worker.py:1774).
OPEN_FILES = 8192
# Ray's object store: as large a part of the memory, or this if less; in ordinary files where /dev/shm is smaller
# (ray/_private/utils.py:resolve_object_store_memory).
STORE_SHARE, STORE = 0.3, 10**10


def check_open_files() -> Finding:
    """Check that Ray may open as many files and sockets as it needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "any number" if hard == resource.RLIM_INFINITY else str(hard)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        return Finding(WARN, "open files", f"{found}; Ray wants {OPEN_FILES}", "Raise the hard limit of `ulimit -n`.")
    return Finding(OK, "open files", found)


def check_shared_memory(config: Mapping, folder: str = "/dev/shm") -> Finding:
    """Check that /dev/shm has room for Ray's objects and, without GPUs, for the weights on their way to the engine."""
    import psutil

    subject, fix = "shared memory", "Enlarge /dev/shm (--shm-size of docker and podman), or delete what lies there."
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    bucket = config["actor_rollout_ref"]["rollout"]["checkpoint_engine"]["update_weights_bucket_megabytes"] * 2**20
    # Written beyond its size, tmpfs ends the process with SIGBUS, which says nothing.
    if on_cpu() and free < bucket:
        return Finding(FAIL, subject, f"{gib(free)} free in /dev/shm, {gib(bucket)} for a weight bucket", fix)
    store = int(min(STORE, STORE_SHARE * psutil.virtual_memory().available))
    if free < store:
        return Finding(WARN, subject, f"{gib(free)} free in /dev/shm; Ray puts its {gib(store)} on disk", fix)
    return Finding(OK, subject, f"{gib(free)} free in /dev/shm")


def living_nodes() -> list[dict]:
    """Return the nodes of the Ray at RAY_ADDRESS.

    Raises:
        ConnectionError: it does not answer.
    """
    import ray

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def check_nodes(trainer: Mapping) -> Iterator[Finding]:
    """Check that a running Ray has the nodes and GPUs that the trainer needs; nothing if it starts its own."""
    wanted, gpus = trainer["nnodes"], trainer["n_gpus_per_node"]
    fix = "experiments/cluster.sh begins Ray on several machines; in a Slurm job SITE_NODES does (docs/experiments.md)."
    if "RAY_ADDRESS" not in os.environ:
        if wanted > 1:
            found = f"trainer.nnodes={wanted}, and no Ray to join: RAY_ADDRESS is not set"
            yield Finding(FAIL, "nodes", found, fix)
        return
    try:
        nodes = living_nodes()
    # Whatever Ray makes of an address at which nobody answers, or of a secret that is not its own.
    except Exception as error:
        yield Finding(FAIL, "nodes", f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {describe(error)}", fix)
        return
    able = sum(node["Resources"].get("GPU", 0) >= gpus for node in nodes)
    found = f"{able} of {len(nodes)} have {gpus} GPUs, {wanted} wanted (trainer.nnodes)"
    yield Finding(OK, "nodes", found) if able >= wanted else Finding(FAIL, "nodes", found, fix)
