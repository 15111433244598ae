#!/usr/bin/env bash
# Train the same tokenizer with different quantizers: CIFAR-10, 32 px, f4, 64 tokens, about 1,000 codes.
#     benchmarks/quantizers.sh DATA OUT [QUANTIZER...]      DATA: a parquet folder with a column image
# Prints the held-out metrics of each as one line of JSON. LPIPS needs the squeeze weights, from TORCH_HOME or a
# download. Results: benchmarks/RESULTS.md
set -euo pipefail
data=$1 out=$2
shift 2
imgtf=${IMGTF:-imgtf}
for quantizer in "${@:-vq}"; do
    $imgtf tokenizer train --data "$data" --model "$out/$quantizer" --quantizer "$quantizer" \
        --width 32 --multipliers 1,2,4 --codebook-size 1024 --steps 1800 --lr 1e-3 --eval-every 600 \
        --lpips-weight 0.5 --lpips-backbone squeeze
    $imgtf tokenizer eval --model "$out/$quantizer" --lpips-backbone squeeze --json | tee "$out/$quantizer.json"
done
