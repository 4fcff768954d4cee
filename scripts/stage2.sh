#!/usr/bin/env bash
# Stage 2, from what scripts/stage1.sh left. Options go to train.py; variables: scripts/environment.sh.
#   bash scripts/stage2.sh                                            on the demonstration corpus
#   GAPL_DATA_ROOT=DIR bash scripts/stage2.sh --preset release
#   GAPL_TORCHRUN="--nproc-per-node 8" GAPL_DATA_ROOT=DIR bash scripts/stage2.sh --preset release
# A run that was stopped is continued by the same command.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt
find_data "$@"
train --stage 2 --init "$runs/stage1/detector.safetensors" --prototypes "$bank" \
    --out "$runs/stage2" ${defaults[@]+"${defaults[@]}"} "$@"
