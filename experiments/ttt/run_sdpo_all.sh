#!/usr/bin/env bash
# Test-time self-distillation on the hard questions of the paper (section 5). See sweep.sh for options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"
sweep_init "$@"
submit_sdpo sdpo_ttt
launcher_finish
