"""`srun` where all nodes are this machine: starts the tasks, passes SIGTERM on, and ends them when one fails."""

import os
import signal
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

flags = list(takewhile(lambda word: word.startswith("-"), sys.argv[1:]))
Path(os.environ["FAKE"], "srun").write_text("\n".join(flags))
options = dict(flag.split("=", 1) for flag in flags if "=" in flag)
command = sys.argv[1 + len(flags) :]
tasks = [
    subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(number)})
    for number in range(int(options["--ntasks"]))
]


def end(*_):
    for task in tasks:
        task.terminate()


signal.signal(signal.SIGTERM, end)
while any(task.poll() is None for task in tasks):
    if options.get("--kill-on-bad-exit") == "1" and any(task.poll() for task in tasks):
        end()
    time.sleep(0.05)
sys.exit(max(task.returncode % 256 for task in tasks))
