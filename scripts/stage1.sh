#!/usr/bin/env bash
# Stage 1, then the prototypes of its training images. Options go to train.py, variables: scripts/environment.sh.
#   bash scripts/stage1.sh                                            on the demonstration corpus
#   GAPL_DATA_ROOT=DIR bash scripts/stage1.sh --preset release
# GAPL_METHOD (kmeans or pca) and GAPL_NUM (64) are of the prototypes.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt
find_data "$@"
"$python" train.py --stage 1 --out "$runs/stage1" ${defaults[@]+"${defaults[@]}"} "$@"
[ -f "$runs/stage1/detector.safetensors" ] || exit 0 # --dry-run, --help
"$python" prototype/dream_prototype.py --stage1 "$runs/stage1/detector.safetensors" --same-data --reuse \
    --method "${GAPL_METHOD:-kmeans}" --num "${GAPL_NUM:-64}" --out "$runs/prototypes.safetensors"
