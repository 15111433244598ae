#!/usr/bin/env bash
# Train priors with different objectives on the same codes, 15 minutes on two cores each: CIFAR-10, 10 classes.
#     benchmarks/objectives.sh TOKENIZER OUT [OBJECTIVE...]    TOKENIZER: a model folder of benchmarks/quantizers.sh
#                                                              OBJECTIVE: raster (default), random or masked
# Then run: python benchmarks/objectives.py DATA OUT/raster OUT/random OUT/masked. Results: benchmarks/RESULTS.md
set -euo pipefail
tokenizer=$1 out=$2
shift 2
imgtf=${IMGTF:-imgtf}
declare -A steps=([raster]=${RASTER_STEPS:-1750} [random]=${RANDOM_STEPS:-1750} [masked]=${MASKED_STEPS:-1750})
for objective in "${@:-raster}"; do
    mkdir -p "$out/$objective"
    cp -r "$tokenizer/tokenizer" "$out/$objective/"
    [ -d "$tokenizer/codes" ] && cp -r "$tokenizer/codes" "$out/$objective/"
    $imgtf prior train --model "$out/$objective" --objective "$objective" \
        --width 256 --depth 6 --heads 8 --steps "${steps[$objective]}" --lr 1e-3 --eval-every 200
    $imgtf prior eval --model "$out/$objective" --json | tee "$out/$objective.json"
done
