# shellcheck shell=bash disable=SC2034
# What SDPO and its baseline are compared on (paper, section 3). Sourced by both.
PAPER_DATASETS="datasets/sciknoweval/biology datasets/sciknoweval/chemistry datasets/sciknoweval/material \
datasets/sciknoweval/physics datasets/tooluse"
PAPER_MODELS="Qwen/Qwen3-8B allenai/Olmo-3-7B-Instruct"
