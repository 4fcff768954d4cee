#!/usr/bin/env bash
# The detector that ships in pretrained/, trained anew: docs/study.md has the figures to expect.
#   bash scripts/train_mini.sh --corpus DIR            DIR is the open corpus: python -m data.collect --out DIR
#   bash scripts/train_mini.sh --corpus DIR --seed 1   into runs/open/seed1; variables: scripts/environment.sh
# A run that was stopped is continued by the same command; what is finished is kept.
set -euo pipefail
corpus="" seed=0
while [ $# -gt 0 ]; do
    case "$1" in
        --corpus) corpus=$(realpath -m "${2:?--corpus needs a folder}"); shift 2 ;;
        --seed) seed=${2:?--seed needs a number}; shift 2 ;;
        -h | --help) sed -n '2,5s/^# *//p' "$0"; exit ;;
        *) echo "error: unknown option $1; usage: bash scripts/train_mini.sh --corpus DIR [--seed N]" >&2; exit 2 ;;
    esac
done
[ -n "$corpus" ] || { echo "error: --corpus DIR is needed" >&2; exit 2; }
[ -d "$corpus/train" ] || { echo "error: $corpus/train: no such folder; python -m data.collect --out DIR makes it" >&2; exit 2; }
source "$(dirname "$0")/environment.sh"
install requirements.txt
out=${GAPL_RUNS:-runs}/open/seed$seed
images=(--data-root "$corpus" --mix open)
train --stage 1 --preset open --backbone clip-vit-b16-int8 "${images[@]}" --seed "$seed" --out "$out/stage1" --reuse
existing=--overwrite # prototypes that are older are those of another stage 1
[ ! "$out/prototypes.safetensors" -nt "$out/stage1/detector.safetensors" ] || existing=--reuse
"$python" prototype/dream_prototype.py --stage1 "$out/stage1/detector.safetensors" --same-data --as-trained \
    --precision auto --seed "$seed" --out "$out/prototypes.safetensors" "$existing"
train --stage 2 --preset open-head --init "$out/stage1/detector.safetensors" \
    --prototypes "$out/prototypes.safetensors" "${images[@]}" --holdout "@$out/stage1/detector.safetensors" \
    --seed "$seed" --out "$out/head" --reuse
train --stage 2 --preset open --init "$out/head/detector.safetensors" --data "$corpus/train" \
    --holdout "@$out/head/detector.safetensors" --seed "$seed" --out "$out/lora" --reuse
if [ "$out/gapl-vit-b16-open.safetensors" -ot "$out/lora/detector.safetensors" ]; then # also where there is none
    "$python" benchmarks.py calibrate "$out/lora/scores_heldout.csv" --per-source 18 --overwrite \
        --model_path "$out/lora/detector.safetensors" --out "$out/calibrated.safetensors"
    "$python" benchmarks.py calibrate "$out/lora/scores_heldout_fast.csv" --fast --per-source 18 --overwrite \
        --model_path "$out/calibrated.safetensors" --out "$out/gapl-vit-b16-open.safetensors"
fi
[ ! -d "$corpus/bench" ] || "$python" benchmarks.py --model_path "$out/gapl-vit-b16-open.safetensors" \
    --data-root "$corpus/bench" --precision auto --out "$out/benchmarks"
