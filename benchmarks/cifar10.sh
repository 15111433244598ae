#!/usr/bin/env bash
# Train both stages on CIFAR-10 (32 px, 10 classes) within 20 minutes on two CPU cores, and sample 100 images.
#     benchmarks/cifar10.sh DATA MODEL        DATA: a parquet folder with columns image and label
# Prints the seconds of each command and the metrics on held-out images. For visual checks, see
# MODEL/samples/*/grid.png and MODEL/training/tokenizer/previews/. Results: benchmarks/RESULTS.md
set -euo pipefail
data=$1 model=$2
imgtf=${IMGTF:-imgtf}
timed() { local start=$SECONDS; "$@"; echo "seconds: $((SECONDS - start)) ($2 $3)"; }
# LPIPS needs pretrained weights, from TORCH_HOME or a download. --lpips-weight 0 trains without LPIPS.
timed $imgtf tokenizer train --data "$data" --model "$model" \
    --width 32 --multipliers 1,2,4 --codebook-size 1024 --steps 1800 --lr 1e-3 --eval-every 600 \
    --lpips-weight 0.5 --lpips-backbone squeeze
timed $imgtf prior train --model "$model" --width 256 --depth 6 --heads 8 --steps 700 --lr 1e-3 --eval-every 100
timed $imgtf sample --model "$model" --n 100 --cfg-scale 2 --top-k 100
$imgtf tokenizer eval --model "$model"
$imgtf prior eval --model "$model"
