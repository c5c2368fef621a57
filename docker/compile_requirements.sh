#!/usr/bin/env bash
# Makes the requirement files for GPUs anew, from pyproject.toml: bash docker/compile_requirements.sh
# Needs uv 0.13.9 and a package index. requirements-cpu.txt is not made here.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # OUTPUT PLATFORM ARGUMENTS...
    local output=$1 platform=$2
    shift 2
    uv pip compile --quiet --no-annotate --no-header --python-version 3.12 --python-platform "$platform" \
        --output-file "$work/$output" pyproject.toml "$@"
}

without_container_packages() {
    grep --invert-match --extended-regexp --file <(sed -n 's/^[^#].*/^(&)==/p' docker/provided-by-container.txt) "$1"
}

publish() { # OUTPUT, with the comment and the pins on standard input
    cat >"$work/published"
    mv "$work/published" "$1"
}

more=(--extra report --extra test)
compile full x86_64-manylinux_2_28 --extra vllm "${more[@]}"
compile core x86_64-manylinux_2_28 --extra report --constraint "$work/full"
compile cuda x86_64-manylinux_2_28 --constraint "$work/full" --extra vllm "${more[@]}" --extra flash-attn
# verl's extra `sglang` contradicts itself: sglang 0.5.12 asks for transformers 5.6.0, the one version that verl excludes.
echo "transformers==5.9.0" >"$work/override"
compile sglang x86_64-manylinux_2_34 --extra sglang "${more[@]}" --override "$work/override"

compiled="Made by docker/compile_requirements.sh with
#   uv pip compile --python-version 3.12 --python-platform"

publish requirements-full.txt <<EOF
# Everything for training with vLLM on x86_64 Linux and Python 3.12, complete: torch, CUDA and verl's own choice of vLLM.
#   pip install --no-deps -r requirements-full.txt
# $compiled x86_64-manylinux_2_28 pyproject.toml --extra vllm ${more[*]}
$(cat "$work/full")
EOF

publish requirements.txt <<EOF
# The core: verl, this package and their dependencies, beside a torch and an inference engine that are there already.
#   pip install --no-deps -r requirements.txt
# $compiled x86_64-manylinux_2_28 pyproject.toml --extra report --constraint requirements-full.txt
# less the packages of docker/provided-by-container.txt.
$(without_container_packages "$work/core")
EOF

publish requirements-gh200.txt <<EOF
# Everything that NVIDIA's vLLM container (aarch64, Python 3.12) lacks, see Dockerfile.gh200.
#   pip install --no-deps -r requirements-gh200.txt
# Made by docker/compile_requirements.sh: requirements-full.txt less the packages of docker/provided-by-container.txt.
$(without_container_packages "$work/full")
EOF

publish requirements_sglang.txt <<EOF
# Everything for SGLang instead of vLLM (never both): x86_64 Linux with glibc 2.34 or newer, Python 3.12. Nobody ran it.
#   pip install --no-deps -r requirements_sglang.txt
# $compiled x86_64-manylinux_2_34 pyproject.toml --extra sglang ${more[*]} --override <(echo transformers==5.9.0)
# The override, because sglang 0.5.12 asks for transformers 5.6.0, which verl 0.9.1 excludes.
$(cat "$work/sglang")
EOF

publish requirements-cuda.txt <<EOF
# Flash attention on top of requirements-full.txt or requirements_sglang.txt; built from source against the installed torch.
#   pip install --no-deps --no-build-isolation -r requirements-cuda.txt
# $compiled x86_64-manylinux_2_28 pyproject.toml --constraint requirements-full.txt --extra vllm ${more[*]} --extra flash-attn
# what that adds to requirements-full.txt.
$(grep --invert-match --line-regexp --fixed-strings --file "$work/full" "$work/cuda")
EOF
