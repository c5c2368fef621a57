"""The command lines of multi-turn and best-of-k, which differ in a flag or two."""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from baseline_multiturn.engines import ChatTokenizer, Sampling, ServerEngine, VllmEngine
from baseline_multiturn.search import Engine, Search
from verl.sdpo.preflight.data_files import REWARD_FUNCTION as GRADERS
from verl.sdpo.test_time.grading import Question, grade_question, load_reward_function, read_question
from verl.sdpo.test_time.log import SUFFIX, AttemptLog, conclusion

# Flags that change where a run happens, and not what it samples.
_NOT_CONFIG = {
    *("data_dir", "run_name", "output_dir", "logger"),
    *("server", "batch", "tensor_parallel_size", "gpu_memory_utilization"),
}
_METRICS = ("reward", "prompt_tokens", "response_tokens", "dropped")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the flags that both methods share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of one question with train.parquet and test.parquet")
    add("--run-name", help="name of the log (default: METHOD_QUESTION_seedSEED)")
    add("--output-dir", type=Path, default=Path(os.environ.get("RUN_DIR", "outputs/ttt")), help="folder of the log")
    add("--model", default="Qwen/Qwen3-8B", help="path or hub name; with --server, the name that the server knows")
    add("--tokenizer", help="path or hub name (default: --model)")
    add("--server", metavar="URL", help="base URL of an OpenAI-compatible server, instead of vLLM in this process")
    add("--max-context", type=int, default=32000, metavar="TOKENS", help="longest prompt (%(default)s)")
    add("--max-response", type=int, default=8192, metavar="TOKENS", help="longest response (%(default)s)")
    add("--budget", type=int, default=2750, metavar="ATTEMPTS", help="attempts after which to stop (%(default)s)")
    add("--temperature", type=float, default=1.0)
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--chat-template-kwargs", type=json.loads, default={"enable_thinking": False}, metavar="JSON")
    add("--reward", default=GRADERS, help="module (pkg://...) or file with compute_score (%(default)s)")
    add("--reward-kwargs", type=json.loads, default={}, metavar="JSON", help="its options, see docs/rewards.md")
    add("--tensor-parallel-size", type=int, default=1)
    add("--gpu-memory-utilization", type=float, default=0.7)
    add("--dtype", default="auto")
    add("--logger", nargs="*", default=[], choices=("tensorboard", "wandb"), help="trackers besides the log")
    return parser


def run_config(args: argparse.Namespace, method: str, question: Question) -> dict[str, Any]:
    """Return the header of the log: everything that a resumed run must have in common with the run it continues."""
    return {
        "method": method,
        **question.header(),
        **{name: value for name, value in vars(args).items() if name not in _NOT_CONFIG},
    }


def make_engine(args: argparse.Namespace) -> Engine:
    tokenizer = ChatTokenizer(args.tokenizer or args.model, args.chat_template_kwargs)
    sampling = Sampling(args.max_response, args.temperature, args.top_p, args.chat_template_kwargs)
    if args.server:
        return ServerEngine(args.server, args.model, tokenizer, sampling)
    options = {name: getattr(args, name) for name in ("dtype", "tensor_parallel_size", "gpu_memory_utilization")}
    return VllmEngine(args.model, tokenizer, sampling, max_context=args.max_context, **options)


def make_report(args: argparse.Namespace, name: str) -> Callable[[str, dict[str, Any] | None], None]:
    """Return a callback that prints each line, and passes an attempt's numbers to the trackers."""
    if not args.logger:
        return lambda line, record: print(line, flush=True)
    from verl.utils.tracking import Tracking

    project = os.environ.get("WANDB_PROJECT", "sdpo-test-time")
    tracking = Tracking(project, name, default_backend=args.logger, config={})

    def report(line: str, record: dict[str, Any] | None) -> None:
        print(line, flush=True)
        if record is not None:
            numbers = {key: record[key] for key in _METRICS if key in record}
            tracking.log({**numbers, "acc": record["metrics"].get("acc", record["reward"])}, step=record["attempt"])

    return report


def run(args: argparse.Namespace, method: str, search_with: Callable[[Search], None]) -> None:
    """Search for a solution of the question, from the start or from where the log ends.

    Raises:
        ValueError: the question, its grader or the log cannot be used, before an engine is started.
    """
    question = read_question(args.data_dir / "train.parquet", args.data_dir / "test.parquet")
    reward_function = load_reward_function(args.reward, args.reward_kwargs)
    if args.reward == GRADERS:
        from verl.utils.reward_score.feedback import check_data_sources

        check_data_sources([question.data_source], **args.reward_kwargs)
    name = args.run_name or f"{method}_{question.id}_seed{args.seed}"
    log = AttemptLog(args.output_dir / f"{name}{SUFFIX}", run_config(args, method, question))
    if log.left:
        print(f"{log.path}: {len(log.records)} attempts so far, up to {log.left} to go", flush=True)
        search = Search(
            question=question,
            engine=make_engine(args),
            grade=partial(grade_question, reward_function, question),
            log=log,
            max_context=args.max_context,
            report=make_report(args, name),
        )
        search_with(search)
    print(conclusion(log), flush=True)
    log.close()
