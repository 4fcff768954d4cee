#!/usr/bin/env bash
# Stage 1, then prototypes of the same images. Options go to train.py; variables: scripts/environment.sh.
#   bash scripts/stage1.sh                                            on the demonstration corpus
#   GAPL_DATA_ROOT=DIR bash scripts/stage1.sh --preset release
# A run that was stopped is continued by the same command.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt
find_data "$@"
train --stage 1 --out "$runs/stage1" ${defaults[@]+"${defaults[@]}"} \
    ${demo_backbone[@]+"${demo_backbone[@]}"} "$@"
case " $* " in *" --dry-run "* | *" --help "* | *" -h "*) exit ;; *" --reuse "*) existing=--reuse ;; esac
"$python" prototype/dream_prototype.py --stage1 "$runs/stage1/detector.safetensors" --same-data \
    --method "${GAPL_METHOD:-kmeans}" --num "${GAPL_NUM:-64}" --out "$bank" "${existing:---overwrite}"
