#!/usr/bin/env bash
# SDPO with rich feedback, LiveCodeBench (paper, section 4). `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" rich_feedback_sdpo "$@"
