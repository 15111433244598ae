#!/usr/bin/env bash
# What conditions are worth: the same prior with and without one. On two CPU cores facades takes 40 minutes.
#     benchmarks/conditions.sh PART OUT DATA [TOKENIZER]
# PART: facades  label map to photo, 64 px. DATA: a data set with columns image and conditioning_image
#       zoom     16 px to 64 px. DATA: photographs; TOKENIZER: a model folder with a 64 px tokenizer of them
#       text     captions, 32 px. DATA: a data set with columns image, label and text
#       recipe   our recipe against minGPT's. DATA is not read; TOKENIZER: a model folder with codes of labelled images
# Prints held-out bits a token of each prior as JSON; look at OUT/*/training/prior/previews too.
set -euo pipefail
part=$1 out=$2 data=$3 tokenizer=${4:-}
imgtf=${IMGTF:-imgtf}
size="--width 192 --depth 4 --heads 6"
mkdir -p "$out"

prior() {  # NAME TOKENIZER OPTIONS...: a prior of its own on the codes of a tokenizer, and its figures
    local name=$1 from=$2
    shift 2
    mkdir -p "$out/$name"
    [ -d "$out/$name/tokenizer" ] || cp -r "$from/tokenizer" "$out/$name/"
    [ -d "$out/$name/codes" ] || { [ -d "$from/codes" ] && cp -r "$from/codes" "$out/$name/"; } || true
    $imgtf prior train --model "$out/$name" "$@"
    $imgtf prior eval --model "$out/$name" --json | tee "$out/$name.json"
}

case $part in
facades)
    # 400 pairs: crops of each stretch them, and nothing is told of where a place is, for the maps are learned by heart.
    crops="--data $data --flip --crop random --crop-scale 0.78"
    common="$crops --image-size 64 --batch-size 16 --lr 2e-3 --codebook-distance euclidean --lpips-weight 0
        --discriminator-weight 0 --eval-every 100"
    $imgtf tokenizer train --model "$out/photos" --image-column image $common --network vit --patch 4 --width 64 \
        --depth 1 --heads 2 --codebook-size 16 --steps 400
    $imgtf tokenizer train --model "$out/maps" --image-column conditioning_image $common --width 16 --multipliers 1 \
        --blocks 1 --norm-groups 4 --no-middle-attention --codebook-size 64 --steps 300
    few="$crops --image-column image --views 24 --width 128 --depth 3 --heads 4 --encoder-depth 1 --positions none
        --dropout 0.1 --batch-size 32 --lr 1.5e-3 --steps 1200 --eval-every 100 --code-noise 0"
    prior facades "$out/photos" $few --source-column conditioning_image --source-model "$out/maps" --source-reach 3
    prior facades-none "$out/photos" $few
    ;;
zoom)
    prior zoom "$tokenizer" --data "$data" --conditions image --source-size 16 $size --steps 250 --eval-every 25 --code-noise 0
    prior zoom-none "$tokenizer" --data "$data" --conditions none $size --steps 250 --eval-every 25 --code-noise 0
    ;;
text)
    $imgtf tokenizer train --model "$out/text" --data "$data" --width 32 --multipliers 1,2,4 --codebook-size 512 \
        --steps 400 --lr 1e-3 --flip
    $imgtf prior train --model "$out/text" --conditions text --caption-bytes 32 $size --steps 350 --lr 2e-3 --eval-every 50
    $imgtf prior eval --model "$out/text" --json | tee "$out/text.json"
    ;;
recipe)
    # As many parameters, the same codes and time: minGPT's step is 6 % shorter (LayerNorm is one operation on a CPU), so
    # it gets 6 % more of them. Nothing is hidden or replaced in either, so that both minimise what is measured.
    same="--width 256 --depth 6 --heads 8 --code-noise 0 --condition-dropout 0 --eval-every 200"
    prior ours "$tokenizer" $same --lr 1.5e-3 --steps 1000
    prior mingpt "$tokenizer" $same --norm layer --feed-forward gelu --hidden 1024 --bias \
        --positions learned --rotary none --weight-decay 0.1 --beta2 0.95 \
        --lr 1e-3 --final-lr 1 --warmup 0 --ema-decay 0 --steps 1060
    ;;
esac
