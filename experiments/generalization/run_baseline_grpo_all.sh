#!/usr/bin/env bash
# verl's GRPO, off and on policy, on the same data. `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" generalization_grpo generalization_grpo_onpolicy "$@"
