#!/usr/bin/env bash
# Stage 1, then prototypes of the same images. Options go to train.py, and --device, --feature-cache, --num-workers and
# --seed to the prototypes, too; variables: scripts/environment.sh.
#   bash scripts/stage1.sh                                            on the demonstration corpus
#   GAPL_DATA_ROOT=DIR bash scripts/stage1.sh --preset release
# A run that was stopped is continued by the same command.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
[[ ${GAPL_METHOD:-kmeans} =~ ^(kmeans|pca|mean|random)$ ]] ||
    { echo "error: GAPL_METHOD is kmeans or pca, not $GAPL_METHOD" >&2; exit 2; }
[[ ${GAPL_NUM:-64} =~ ^([2468]|[1-9][0-9]*[02468])$ ]] ||
    { echo "error: GAPL_NUM is an even number and at least 2, not $GAPL_NUM" >&2; exit 2; }
install requirements.txt
find_data "$@"
stage1=$runs/stage1/detector.safetensors
prototypes=(--stage1 "$stage1" --same-data --method "${GAPL_METHOD:-kmeans}" --num "${GAPL_NUM:-64}" --out "$bank")
previous=
for option in "$@"; do
    case $previous in --device | --feature-cache | --num-workers | --seed) prototypes+=("$previous" "$option") ;; esac
    case $option in --device=* | --feature-cache=* | --num-workers=* | --seed=*) prototypes+=("$option") ;; esac
    previous=$option
done
asked=$(printf '%q ' "${GAPL_DATA_ROOT:-}" "$@")
asked=${asked//--overwrite /}
reuse=()
case " $* " in
    *" --dry-run "* | *" --help "* | *" -h "*) ;;
    *)
        if [ ! -e "$stage1" ] || [[ " $* " = *" --overwrite "* ]]; then
            mkdir -p "$runs"
            echo "$asked" >"$runs/stage1.options"
        elif [ ! "$bank" -nt "$stage1" ] && [ "$asked" = "$(cat "$runs/stage1.options" 2>/dev/null)" ]; then
            reuse=(--reuse) # the same command was stopped at the prototypes
        fi ;;
esac
train --stage 1 --out "$runs/stage1" ${defaults[@]+"${defaults[@]}"} \
    ${demo_backbone[@]+"${demo_backbone[@]}"} "$@" ${reuse[@]+"${reuse[@]}"}
existing=--overwrite
case " $* " in
    *" --dry-run "* | *" --help "* | *" -h "*) exit ;;
    *" --reuse "*) [ ! "$bank" -nt "$stage1" ] || existing=--reuse ;; # older ones are those of another stage 1
esac
"$python" prototype/dream_prototype.py "${prototypes[@]}" "$existing"
