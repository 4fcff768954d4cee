#!/usr/bin/env bash
# The benchmark table of what scripts/stage2.sh left, or of any detector. Options go to benchmarks.py.
#   GAPL_DATA_ROOT=DIR bash scripts/val_bench.sh --model_path FILE --benchmarks GenImage,UFD
set -euo pipefail
source "$(dirname "$0")/environment.sh"
find_runs "$@"
if [[ " $* " != *" --model"* && " $* " != *" --help "* && " $* " != *" -h "* && ! -e $runs/stage2/detector.safetensors ]]; then
    echo "error: $runs/stage2/detector.safetensors: no such file; train one by scripts/stage2.sh, or name --model_path" >&2
    exit 2
fi
install requirements.txt
find_data "$@"
"$python" benchmarks.py --model_path "$runs/stage2/detector.safetensors" --out "$runs/benchmarks" "$@"
