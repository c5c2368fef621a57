#!/usr/bin/env bash
# Best-of-k on the hard questions of the paper (section 5). See sweep.sh for options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"
sweep_init "$@"
submit_prompting best_of_k best_of_k.py
launcher_finish
