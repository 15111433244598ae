#!/usr/bin/env bash
# The defaults beside LlamaGen's recipes of both stages, run in our own code: the same data and minutes.
# One thread, or as many as OMP_NUM_THREADS says.
#     benchmarks/llamagen.sh DATA OUT [MINUTES]      DATA: images of 32 px with labels, such as CIFAR-10
# LlamaGen's tokenizer recipe runs twice: with its batch size and learning rate, and with those of our defaults. The
# better one gets LlamaGen's recipe of the prior, with our batch size and learning rate. Its discriminator starts at
# step 20,000, which no run of minutes reaches. The network has LlamaGen's form, narrowed to f4 and 1,024 codes.
# Needs the packages that benchmarks/quality.py names, and the weights of LPIPS (squeeze). Results: docs/quality.md
set -euo pipefail
data=$1 out=$2 minutes=${3:-10}
imgtf=${IMGTF:-imgtf} python=${PYTHON:-python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
network=(--preset tiny --width 32 --multipliers 1,2,4 --blocks 2 --middle-attention --latent-width 256
    --codebook-size 1024 --codebook-dim 8)
losses=(--l1-weight 0 --l2-weight 1 --lpips-weight 1 --lpips-backbone squeeze --commitment-weight 0.25)
adam=(--beta1 0.9 --beta2 0.95 --grad-clip 1 --warmup 0 --final-lr-ratio 1)
tokenizer() { $imgtf tokenizer train --data "$data" --minutes "$minutes" --model "$out/$1" "${@:2}"; }
prior() { $imgtf prior train --minutes "$minutes" --model "$out/$1" "${@:2}"; }

tokenizer ours
tokenizer llamagen "${network[@]}" "${losses[@]}" "${adam[@]}" --batch-size 128 --lr 1e-4
tokenizer llamagen-tuned "${network[@]}" "${losses[@]}" "${adam[@]}" --batch-size 32 --lr 1e-3
prior ours
prior llamagen-tuned --preset tiny --positions none --rotary held --code-noise 0 --token-dropout 0.1 \
    --weight-decay 0.05 "${adam[@]}" --batch-size 32 --lr 1e-3 --cfg-scale 1.5
here=$(dirname "$0")
$python "$here/quality.py" "$out/llamagen" --data "$data" --features squeeze --reconstructions
$python "$here/quality.py" "$out/ours" "$out/llamagen-tuned" --data "$data" --features squeeze
