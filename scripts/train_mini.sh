#!/usr/bin/env bash
# The detector that ships in pretrained/, trained anew: docs/study.md has the figures to expect.
#   bash scripts/train_mini.sh --corpus DIR            DIR/{stage1,commfor-mini,commfor-wide,commfor-modern,bench}
#   bash scripts/train_mini.sh --corpus DIR --seed 1   into runs/mini/seed1; variables: scripts/environment.sh
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
parts=()
for part in stage1 commfor-mini commfor-wide commfor-modern; do
    [ -d "$corpus/$part" ] || { echo "error: $corpus/$part: no such folder" >&2; exit 2; }
    parts+=("$corpus/$part")
done
# For every seed the same ones: 8 real sources and 21 generators that were once drawn with seed 0. Other draws may
# take all that there is of a kind, such as GLIDE, and then the threshold follows one generator.
held_out=(coral humanseg imdac_unsplash jm_dressage sharline real:stylegan2/face travel_komar yuval
    ganimagedetection gmdit infinity kandinsky21 lightningdit meissonic midjourney_codrops_slideshow
    mj_codrops_ImageExpansionTypography pix2pix sana_1600m_2kpx_bf16_diffusers sd1_artists sdnext_f_lite
    sdnext_kandinsky_2_2_decoder sdnext_playground_v2_1024px_aesthetic
    sdnext_playground_v2_5_1024px_aesthetic_fp16 sdnext_wan2_1_t2v_14b sdnext_wan2_1_t2v_1_3b
    sdxl_thinkdiffusionxl_cog sdxs_512_dreamshaper sdxs_dreamshaper z_image_turbo)
images=(--data "${parts[@]}" --holdout "${held_out[@]}")
source "$(dirname "$0")/environment.sh"
install requirements.txt
out=${GAPL_RUNS:-runs}/mini/seed$seed
train --stage 1 --preset mini --backbone clip-vit-b16-int8 "${images[@]}" --seed "$seed" \
    --out "$out/stage1" --reuse
"$python" prototype/dream_prototype.py --stage1 "$out/stage1/detector.safetensors" --same-data --precision auto \
    --seed "$seed" --out "$out/prototypes.safetensors" --reuse
train --stage 2 --preset mini-head --init "$out/stage1/detector.safetensors" \
    --prototypes "$out/prototypes.safetensors" "${images[@]}" --seed "$seed" --out "$out/head" --reuse
train --stage 2 --preset mini --init "$out/head/detector.safetensors" "${images[@]}" --seed "$seed" \
    --out "$out/stage2" --reuse
"$python" benchmarks.py calibrate "$out/stage2/scores_heldout.csv" \
    --model_path "$out/stage2/detector.safetensors" --out "$out/gapl-vit-b16-mini.safetensors"
[ ! -d "$corpus/bench" ] || "$python" benchmarks.py --model_path "$out/gapl-vit-b16-mini.safetensors" \
    --data-root "$corpus/bench" --degrade none jpeg:75 --precision auto --out "$out/benchmarks"
