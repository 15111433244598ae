#!/usr/bin/env bash
# Measure how much a condition helps: train the same prior with and without it. facades takes 40 minutes on two CPU cores.
#     benchmarks/conditions.sh EXPERIMENT OUT DATA [TOKENIZER]
# EXPERIMENT: facades  label map to photograph, 64 px. DATA: a data set with columns image and conditioning_image
#             zoom     16 px to 64 px. DATA: photographs; TOKENIZER: a model folder with a 64 px tokenizer of them
#             text     captions, 32 px. DATA: a data set with columns image, label and text
#             recipe   our prior recipe against minGPT's and LlamaGen's. DATA is not read; TOKENIZER: a model folder
# Prints the held-out bits per token of each prior as JSON. For visual checks, see OUT/*/training/prior/previews.
# Results: benchmarks/RESULTS.md
set -euo pipefail
experiment=$1 out=$2 data=$3 tokenizer=${4:-}
imgtf=${IMGTF:-imgtf}
size="--width 192 --depth 4 --heads 6"
mkdir -p "$out"

prior() {  # NAME TOKENIZER OPTIONS...: train and evaluate a prior on the codes of a tokenizer
    local name=$1 from=$2
    shift 2
    mkdir -p "$out/$name"
    [ -d "$out/$name/tokenizer" ] || cp -r "$from/tokenizer" "$out/$name/"
    [ -d "$out/$name/codes" ] || { [ -d "$from/codes" ] && cp -r "$from/codes" "$out/$name/"; } || true
    $imgtf prior train --model "$out/$name" "$@"
    $imgtf prior eval --model "$out/$name" --json | tee "$out/$name.json"
}

case $experiment in
facades)
    # 400 pairs are memorised easily: train on many crops of each, without learned positions in the prior.
    crops="--data $data --flip --crop random --crop-scale 0.78"
    common="$crops --image-size 64 --batch-size 16 --lr 2e-3 --codebook-distance euclidean --lpips-weight 0
        --discriminator-weight 0 --eval-every 100"
    $imgtf tokenizer train --model "$out/photos" --image-column image $common --network vit --patch 4 --width 64 \
        --depth 1 --heads 2 --codebook-size 16 --steps 400
    $imgtf tokenizer train --model "$out/maps" --image-column conditioning_image $common --width 16 --multipliers 1 \
        --blocks 1 --norm-groups 4 --no-middle-attention --codebook-size 64 --steps 300
    few="$crops --image-column image --crops-per-image 24 --width 128 --depth 3 --heads 4 --encoder-depth 1 --positions none
        --dropout 0.1 --batch-size 32 --lr 1.5e-3 --steps 1200 --eval-every 100 --code-noise 0"
    prior facades "$out/photos" $few --conditioning-column conditioning_image --conditioning-model "$out/maps"
    prior facades-none "$out/photos" $few
    ;;
zoom)
    prior zoom "$tokenizer" --data "$data" --conditions image --conditioning-size 16 $size --steps 250 --eval-every 25 --code-noise 0
    prior zoom-none "$tokenizer" --data "$data" --conditions none $size --steps 250 --eval-every 25 --code-noise 0
    ;;
text)
    $imgtf tokenizer train --model "$out/text" --data "$data" --width 32 --multipliers 1,2,4 --codebook-size 512 \
        --steps 400 --lr 1e-3 --flip
    $imgtf prior train --model "$out/text" --conditions text --caption-bytes 32 $size --steps 350 --lr 2e-3 --eval-every 50
    $imgtf prior eval --model "$out/text" --json | tee "$out/text.json"
    ;;
recipe)
    # The same codes, time and network size, on one thread. No condition is dropped and no code replaced, so all
    # minimise the measured loss. The other recipes have three learning rates each, constant as in their code.
    export OMP_NUM_THREADS=1
    same="--minutes ${MINUTES:-4} --code-noise 0 --condition-dropout 0"
    shape="--width 128 --depth 4 --heads 4 --final-lr-ratio 1 --warmup 0 --ema-decay 0 --beta2 0.95 --batch-size 64"
    prior ours "$tokenizer" $same
    for lr in 1e-3 2e-3 4e-3; do
        prior "mingpt-$lr" "$tokenizer" $same $shape --norm layer --feed-forward gelu --intermediate-size 512 --bias \
            --positions learned --rotary none --weight-decay 0.1 --lr $lr
        prior "llamagen-$lr" "$tokenizer" $same $shape --positions none --rotary held --weight-decay 0.05 --lr $lr
    done
    ;;
esac
