"""How fast does the sandbox grade? Prints a table: tests per second and core, and what one test costs.

`CPU ms` is all the CPU time spent on a test, the program's and the grader's, starts of pools left out; unlike the other
columns it hardly depends on what else the machine does.

    python benchmarks/sandbox_throughput.py [--tests 400]

Rows: the sandbox as configured; a fresh interpreter per test with the same imports at hand and no confinement at all;
verl's prime_code grader, one program per call as its reward manager calls it. The last line is the load test: eight
times more busy programs than cores, each with twice the CPU time that it needs.
"""

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from verl.utils.reward_score.feedback.sandbox import Job, SandboxConfig, Status, TestInput, TestOutcome
from verl.utils.reward_score.feedback.sandbox.jail.harness import PREAMBLE
from verl.utils.reward_score.feedback.sandbox.pool import Pool

CORES = len(os.sched_getaffinity(0))
TRIVIAL = ("print(1)  # {number}", "", "1")
SOLUTION = (
    """
import sys, heapq
from collections import defaultdict

def shortest(n, edges):  # {number}
    graph = defaultdict(list)
    for a, b, w in edges:
        graph[a].append((b, w))
        graph[b].append((a, w))
    best = [float("inf")] * (n + 1)
    best[1] = 0
    queue = [(0, 1)]
    while queue:
        distance, node = heapq.heappop(queue)
        if distance > best[node]:
            continue
        for other, weight in graph[node]:
            if distance + weight < best[other]:
                best[other] = distance + weight
                heapq.heappush(queue, (best[other], other))
    return best[n]

def main():
    n, m = map(int, input().split())
    edges = [tuple(map(int, input().split())) for _ in range(m)]
    print(shortest(n, edges))

main()
""",
    "100 99\n" + "".join(f"{i} {i + 1} {i}\n" for i in range(1, 100)),
    "4950",
)


def sandbox(program: str, text: str, answer: str, count: int) -> tuple[float, list[float]]:
    """Seconds for all tests on all cores, and per test on one (spawn to verdict, the program's CPU included)."""
    with contextlib.redirect_stdout(sys.stderr):
        pool = Pool(SandboxConfig(workers=CORES))

    def check(outcomes: list[list[TestOutcome]]) -> list[float]:
        assert all(item.status is Status.OK and item.stdout.strip() == answer for job in outcomes for item in job)
        return [item.seconds for job in outcomes for item in job]

    def jobs(name: str, tests: int) -> list[Job]:
        per_job = 10
        return [
            Job(program.replace("{number}", f"{name} {number}"), "stdin", (TestInput(text),) * per_job)
            for number in range(tests // per_job)
        ]

    check(pool.scheduler.run(jobs("warm", 20 * CORES)))
    start = time.perf_counter()
    check(pool.scheduler.run(jobs("all", count)))
    together = time.perf_counter() - start
    alone = [seconds for job in jobs("alone", 100) for seconds in _timed(partial(pool.scheduler.run, [job]))]
    pool.end()
    return together, alone


def cpu_seconds() -> float:
    """CPU seconds of this process and all its ended descendants."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _timed(run: Callable[[], list[list[TestOutcome]]]) -> list[float]:
    start = time.perf_counter()
    outcomes = run()[0]
    return [(time.perf_counter() - start) / len(outcomes)] * len(outcomes)


def fresh_interpreter(program: str, text: str, answer: str, count: int) -> tuple[float, list[float]]:
    """A new `python -I -S` for each test, the imports of LiveCodeBench's prompt included."""
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

    def run(number: int) -> float:
        start = time.perf_counter()
        code = PREAMBLE + program.replace("{number}", str(number))
        done = subprocess.run([real, "-I", "-S", "-c", code], input=text, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == answer
        return time.perf_counter() - start

    return _on_all_cores(run, count)


def prime_code(program: str, text: str, answer: str, count: int) -> tuple[float, list[float]]:
    """verl's grader: a forked process with a manager per program, builtins patched inside it."""
    from verl.utils.reward_score.prime_code import compute_score

    def run(number: int) -> float:
        start = time.perf_counter()
        completion = f"```python\n{program.replace('{number}', str(number))}\n```"
        passed, _ = compute_score(completion, {"inputs": [text], "outputs": [answer]}, continuous=False)
        assert passed, "prime_code rejects a correct program"
        return time.perf_counter() - start

    return _on_all_cores(run, count)


def _on_all_cores(run: Callable[[int], float], count: int) -> tuple[float, list[float]]:
    run(0)
    with ThreadPoolExecutor(CORES) as threads:
        start = time.perf_counter()
        list(threads.map(run, range(count)))
        together = time.perf_counter() - start
    return together, [run(number) for number in range(min(count, 30))]


def load_test() -> str:
    pool = Pool(SandboxConfig(workers=8 * CORES))
    program = "import time\nwhile time.process_time() < 1: pass\nprint({})"
    jobs = [Job(program.format(number), "stdin", (TestInput(""),), time_limit=2.0) for number in range(8 * CORES)]
    start = time.perf_counter()
    statuses = [outcomes[0].status for outcomes in pool.scheduler.run(jobs)]
    pool.end()
    wrong = len(statuses) - statuses.count(Status.OK)
    return f"load: {len(jobs)} programs of 1 s on {CORES} cores in {time.perf_counter() - start:.1f} s, {wrong} not OK"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=400, help="tests per measurement of the sandbox")
    count = parser.parse_args().tests
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}, python {sys.version.split()[0]}")
    print(f"{'grader':<20} {'program':<10} {'tests/s/core':>12} {'median ms':>10} {'p95 ms':>8} {'CPU ms':>8}")
    graders = [(sandbox, count), (fresh_interpreter, count // 2), (prime_code, 40)]
    for name, case in (("trivial", TRIVIAL), ("30 lines", SOLUTION)):
        for grader, tests in graders:
            before = cpu_seconds()
            grader(*case, tests // 4)
            middle = cpu_seconds()
            together, alone = grader(*case, tests)
            cpu = (cpu_seconds() - middle - (middle - before)) / (tests - tests // 4)
            p95 = statistics.quantiles(alone, n=20)[-1]
            rate = tests / together / CORES
            median = statistics.median(alone)
            times = f"{median * 1e3:>10.1f} {p95 * 1e3:>8.1f} {cpu * 1e3:>8.1f}"
            print(f"{grader.__name__:<20} {name:<10} {rate:>12.0f} {times}", flush=True)
    print(load_test())


if __name__ == "__main__":
    main()
