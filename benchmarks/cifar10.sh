#!/usr/bin/env bash
# Train both stages on CIFAR-10 (32 px, 10 classes) with the defaults, ten minutes each, and sample 100 images.
#     benchmarks/cifar10.sh DATA MODEL [MINUTES] [OPTION...]     DATA: a parquet folder with columns image and label
# Other data work too; OPTION... goes to the tokenizer: --image-size 64.
# Prints the seconds of each command and the metrics on held-out images. For visual checks, see
# MODEL/samples/*/grid.png and MODEL/training/tokenizer/previews/. Results: benchmarks/RESULTS.md, docs/quality.md
set -euo pipefail
data=$1 model=$2 minutes=${3:-10}
shift $(($# < 3 ? $# : 3))
imgtf=${IMGTF:-imgtf}
timed() { local start=$SECONDS; "$@"; echo "seconds: $((SECONDS - start)) ($2 $3)"; }
timed $imgtf tokenizer train --data "$data" --model "$model" --minutes "$minutes" "$@"
timed $imgtf prior train --model "$model" --minutes "$minutes"
timed $imgtf sample --model "$model" --n 100
$imgtf tokenizer eval --model "$model"
$imgtf prior eval --model "$model"
