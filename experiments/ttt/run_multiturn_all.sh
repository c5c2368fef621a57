#!/usr/bin/env bash
# The multi-turn baseline on the hard questions of the paper (section 5). See sweep.sh for options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"
sweep_init "$@"
submit_prompting multi_turn multiturn.py
launcher_finish
