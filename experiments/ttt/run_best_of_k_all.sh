#!/usr/bin/env bash
# Best-of-k on the hard questions. `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" ttt_best_of_k "$@"
