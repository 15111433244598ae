#!/usr/bin/env bash
# The tokenizer recipes of docs/quality.md, six minutes on one thread each, judged with Lite2 (128 px) and squeeze.
#     benchmarks/recipes.sh DATA OUT [RECIPE...]      DATA: a parquet folder with columns image and label
# MINUTES=4 sets another time.
# Needs the packages that benchmarks/quality.py names, and the weights of LPIPS (squeeze).
set -euo pipefail
data=$1 out=$2
shift 2
imgtf=${IMGTF:-imgtf} python=${PYTHON:-python}
export OMP_NUM_THREADS=1
here=$(dirname "$0")
time=(--data "$data" --preset tiny --minutes "${MINUTES:-6}")
common=("${time[@]}" --width 32 --lr 1e-3 --lpips-backbone squeeze)
codes=(--codebook-size 1024)
fsq=(--quantizer fsq --codebook-size 1000)
stem=(--stem 2 --multipliers 2,4 --middle-attention)
train() { # NAME OPTIONS...
    local name=$1
    shift
    $imgtf tokenizer train --model "$out/$name" "${common[@]}" "$@"
}
recipe() {
    case $1 in
        plain) $imgtf tokenizer train --model "$out/plain" "${time[@]}" ;;
        before) train "$1" "${codes[@]}" --lpips-weight 0.5 ;;
        lpips-1) train "$1" "${codes[@]}" --l1-weight 0 --lpips-weight 1 ;;
        fsq) train "$1" "${fsq[@]}" --lpips-weight 0.5 ;;
        muon) train "$1" "${codes[@]}" --lpips-weight 0.5 --optimizer muon ;;
        stem) train "$1" "${codes[@]}" --lpips-weight 0.5 "${stem[@]}" ;;
        default) train "$1" "${codes[@]}" --lpips-weight 0.5 --optimizer muon "${stem[@]}" ;;
        default-fsq) train "$1" "${fsq[@]}" --lpips-weight 0.5 --optimizer muon "${stem[@]}" ;;
        *) echo "unknown recipe $1" >&2 && exit 2 ;;
    esac
}
recipes=("$@")
[ $# -gt 0 ] || recipes=(before lpips-1 fsq muon stem default default-fsq)
for name in "${recipes[@]}"; do recipe "$name"; done
$python "$here/quality.py" "${recipes[@]/#/$out/}" --data "$data" --size 128 --features squeeze --reconstructions
