#!/usr/bin/env bash
# Self-distillation at test time, on hard questions (paper, section 5). `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" ttt_sdpo "$@"
