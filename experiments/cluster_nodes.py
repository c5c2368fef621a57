"""Ask Ray for cluster.sh: the address of a new head on this machine, and the nodes of a cluster."""

import os
import socket
import sys
import time

import ray


def free_address() -> str:
    """Return `IP:PORT` for a head on this machine."""
    ip = os.environ.get("CLUSTER_IP") or ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind(("", int(os.environ.get("CLUSTER_PORT", 0))))
        return f"{ip}:{probe.getsockname()[1]}"


def connect(address: str, deadline: float) -> None:
    """Become a driver of the cluster.

    Raises:
        ConnectionError: the cluster does not answer by `deadline` (of `time.monotonic`).
    """
    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            return
        # Raised by Ray while one of its processes is still starting.
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise ConnectionError(f"no Ray at {address}: {' '.join(str(error).split())}") from error
            time.sleep(1)


def living_nodes() -> list[str]:
    """Return a line for every node: address, CPUs and GPUs."""
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    amounts = [{name: node["Resources"].get(name, 0) for name in ("CPU", "GPU")} for node in nodes]
    return [
        f"{node['NodeManagerAddress']}  {amount['CPU']:g} CPUs  {amount['GPU']:g} GPUs"
        for node, amount in zip(nodes, amounts, strict=True)
    ]


def wait(address: str, wanted: int, seconds: float) -> int:
    """Print the nodes once there are enough. Return 1 if they do not join in time."""
    deadline = time.monotonic() + seconds
    try:
        connect(address, deadline)
    except ConnectionError as error:
        print(error)
        return 1
    while len(nodes := living_nodes()) < wanted and time.monotonic() < deadline:
        time.sleep(1)
    print(*nodes, sep="\n")
    print(f"{len(nodes)} nodes at {address}" + (f", {wanted} wanted" if wanted else ""))
    return 0 if len(nodes) >= wanted else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["address"]:
        print(free_address())
    else:
        _, _, address, wanted, seconds = sys.argv
        sys.exit(wait(address, int(wanted), float(seconds)))
