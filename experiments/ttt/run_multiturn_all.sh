#!/usr/bin/env bash
# Multi-turn prompting on the hard questions. `--help` shows options and recipe.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh" ttt_multiturn "$@"
