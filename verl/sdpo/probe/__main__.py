"""Can this model teach itself on this data? `python -m verl.sdpo.probe [--config-name sdpo] [key=value ...]`

A probe takes the configuration and overrides of `verl.trainer.main_ppo`, before any hours are spent: the model answers
questions of the training data, answers them again as its own teacher with each context, and its attempts are scored
under both prompts. It prints a table and a verdict. Single-turn questions only.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from verl.sdpo.config import is_sdpo
from verl.sdpo.objective import Divergence
from verl.sdpo.plugin import validate_without_ray
from verl.sdpo.preflight.compose import compose
from verl.sdpo.probe.measures import CONTEXTS, context_table, to_json, verdict
from verl.sdpo.probe.models import Sampler, Scorer, TransformersSampler, VllmSampler
from verl.sdpo.probe.run import Probe, Size


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m verl.sdpo.probe", description=__doc__)
    parser.add_argument("--config-name", default="sdpo")
    parser.add_argument("--config-dir", type=Path, help="folder with more configurations")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8, help="attempts of the student at each question")
    parser.add_argument("--answers", type=int, default=96, help="most answers of the teacher in each context")
    parser.add_argument("--contexts", default=",".join(CONTEXTS), help=f"some of {', '.join(CONTEXTS)}")
    parser.add_argument("--more", type=Path, help="yaml with further contexts: {name: {key of the block: value}}")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm", help="what generates the answers")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("overrides", nargs="*", help="key=value, as for verl.trainer.main_ppo")
    return parser.parse_intermixed_args(argv)


def contexts_of(args: argparse.Namespace) -> dict[str, Mapping[str, Any]]:
    """Return the keys of the chosen contexts and of those of --more.

    Raises:
        ValueError: there is no such context.
    """
    names = [name for name in args.contexts.split(",") if name]
    for name in names:
        if name not in CONTEXTS:
            raise ValueError(f"--contexts {name}: expected some of {', '.join(CONTEXTS)}; --more reads others.")
    more = yaml.safe_load(args.more.read_text()) if args.more else {}
    return {**{name: CONTEXTS[name] for name in names}, **more}


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    contexts = contexts_of(args)
    config = compose(args)
    if not is_sdpo(config):
        raise ValueError(f"--config-name {args.config_name}: no SDPO, so there is no teacher to probe.")
    validate_without_ray(config)
    from verl.utils.config import omega_conf_to_dataclass

    tokenizer: Any = omega_conf_to_dataclass(config.actor_rollout_ref.model).tokenizer
    probe = Probe(config, tokenizer, Size(args.questions, args.samples, args.answers))
    longest = max(probe.settings.prompt.max_reprompt_len, config.data.max_prompt_length)
    is_vllm = args.engine == "vllm"
    sample: Sampler = VllmSampler(config, longest) if is_vllm else TransformersSampler(config, tokenizer)
    probe.attempt(sample)
    chosen = {name: probe.choose(keys) for name, keys in contexts.items()}
    helped = {name: (attempts, share) for name, (attempts, share) in chosen.items() if attempts}
    answers = {name: probe.answer(attempts, sample) for name, (attempts, _) in helped.items()}
    sample.close()
    objective = probe.settings.objective
    score = Scorer(config, objective.config.alpha, objective.support.k or None)
    rows = [probe.row(name, attempts, answers[name], share, score) for name, (attempts, share) in helped.items()]
    sentences = verdict(rows, contexts, objective.config.alpha, isinstance(objective, Divergence))
    solved = sum(attempt.success for attempt in probe.attempts)
    print(f"{len(probe.questions)} questions x {args.samples} attempts, {solved} of {len(probe.attempts)} right.\n")
    print(context_table(rows))
    print("\n" + "\n".join(sentences))
    if args.json:
        args.json.write_text(json.dumps(to_json(rows, sentences), indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"probe: {error}")
