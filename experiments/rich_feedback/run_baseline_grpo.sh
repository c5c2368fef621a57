#!/usr/bin/env bash
# verl's GRPO on LiveCodeBench, the baseline of run_sdpo.sh. `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" rich_feedback_grpo "$@"
