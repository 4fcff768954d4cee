#!/usr/bin/env bash
# Run every command once on a GPU, in fp32, bf16 and fp16, and compare the scores with those of the CPU in fp32.
#   bash scripts/check_gpu.sh            on the demonstration corpus, into runs/gpu, which is replaced
# It ends with "passed", or stops at the first command that fails or score that differs by more than the tolerance.
# THIS SCRIPT HAS NOT BEEN RUN ON A GPU YET. Please report what it prints.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    { echo "error: torch finds no usable GPU on this machine" >&2; exit 2; }
unset GAPL_DATA_ROOT
GAPL_RUNS=runs/gpu
rm -rf "$GAPL_RUNS"
find_data
# Largest difference of P(fake). On a CPU, bf16 moves one image of this corpus by 0.08.
declare -A tolerance=([fp32]=0.01 [bf16]=0.15 [fp16]=0.02)

for precision in fp32 bf16 fp16; do
    out=$runs/$precision
    options=(--device cuda --precision "$precision")
    cached=(--feature-cache "$out/features")
    echo "== $precision"
    train --stage 1 --preset demo "${demo_backbone[@]}" "${options[@]}" "${cached[@]}" --epochs 2 --out "$out/stage1"
    "$python" prototype/dream_prototype.py --stage1 "$out/stage1/detector.safetensors" --same-data \
        "${options[@]}" "${cached[@]}" --out "$out/prototypes.safetensors"
    train --stage 2 --preset demo --init "$out/stage1/detector.safetensors" \
        --prototypes "$out/prototypes.safetensors" "${options[@]}" --max-steps 20 --out "$out/stage2"
    detectors=(pretrained/gapl-vit-b16-open.safetensors "$out/stage2/detector.safetensors")
    "$python" benchmarks.py --model_path "${detectors[@]}" "${options[@]}" --out "$out/gpu"
    "$python" benchmarks.py --model_path "${detectors[@]}" --device cpu --precision fp32 --out "$out/cpu"
    "$python" timing/parity.py "$out/cpu/scores.parquet" "$out/gpu/scores.parquet" \
        --tolerance "${tolerance[$precision]}"
done
"$python" inference.py --model_path "$out/stage2/detector.safetensors" --image_path assets --device cuda
echo "passed"
