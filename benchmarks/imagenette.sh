#!/usr/bin/env bash
# Measure what a discriminator adds and what the divergence monitor prevents: 64 px, f8, 1,024 codes, two CPU cores.
#     benchmarks/imagenette.sh DATA OUT        DATA: a folder of photographs or a parquet folder (imagenette, 900 + 300)
# Trains one start with L1 and LPIPS, then four runs from its weights with the same batches and learning rates: without
# and with a discriminator, and with a harmful discriminator weight, with rollback off and on. Prints the held-out
# metrics. For visual checks, see OUT/*/training/tokenizer/previews/ and curves.png. Results: benchmarks/RESULTS.md
set -euo pipefail
data=$1 out=$2
imgtf=${IMGTF:-imgtf}
# LPIPS needs pretrained weights, from TORCH_HOME or a download.
losses=(--l2-weight 0 --lpips-weight 0.5 --lpips-backbone squeeze)
start() {
    $imgtf tokenizer train --data "$data" --model "$out/start" --image-size 64 --width 16 --multipliers 1,2,4,8 \
        --latent-width 64 --no-middle-attention --norm-groups 8 --codebook-size 1024 "${losses[@]}" \
        --batch-size 16 --steps 1800 --lr 1e-3 --final-lr-ratio 0.5 --eval-every 600 --crop random
}
branch() {  # NAME STEPS OPTIONS...: continue from the start
    local name=$1 steps=$2
    shift 2
    $imgtf tokenizer train --data "$data" --model "$out/$name" --init-from "$out/start" "${losses[@]}" \
        --batch-size 16 --steps "$steps" --lr 5e-4 --final-lr-ratio 0.1 --warmup 20 --ema-decay 0.98 --preview-every 400 \
        --crop random "$@"
}
measure() { $imgtf tokenizer eval --model "$out/$1" --lpips-backbone squeeze --json | tee "$out/$1.json"; }
# --no-rollback: training PSNR may fall by 1.35 dB for a few steps here, more than the monitor allows.
features=(--discriminator features --discriminator-start 20 --discriminator-ramp 400 --discriminator-width 128
    --discriminator-lr 1.5e-3 --no-discriminator-adaptive --discriminator-weight 0.08 --no-rollback)
hostile=(--discriminator-start 20 --discriminator-width 32 --discriminator-lr 4e-4 --discriminator-ramp 2 --discriminator-weight 100)
start
branch without 1800 --log-every 10 --eval-every 200 &
branch with 1800 --log-every 10 --eval-every 200 "${features[@]}"
wait
measure without
measure with
branch hostile-no-rollback 90 --log-every 5 --eval-every 30 --eval-images 100 "${hostile[@]}" --no-rollback &
branch hostile-rollback 90 --log-every 5 --eval-every 30 --eval-images 100 "${hostile[@]}"
wait
