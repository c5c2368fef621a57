#!/usr/bin/env bash
# SDPO without rich feedback (paper, section 3). `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" generalization_sdpo "$@"
