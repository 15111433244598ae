#!/usr/bin/env bash
# What faults during training leave behind. Two minutes on two CPU cores.
#     benchmarks/faults.sh [OUT]
# Full disk (a small tmpfs mount), a folder that nobody may write (chattr; both need root), SIGTERM while a state is written, a second SIGINT, the
# folder removed, a second run in the folder. After each: the last lines of the run, its exit code, the files of the run,
# and how it goes on. Results: benchmarks/RESULTS.md
set -euo pipefail
out=${1:-$(mktemp -d /tmp/imgtf-faults-XXXX)}
imgtf=${IMGTF:-imgtf}
export OMP_NUM_THREADS=1
small="--preset tiny --width 8 --multipliers 1,2 --latent-width 8 --norm-groups 4 --codebook-size 16 --codebook-dim 4
    --batch-size 16 --save-every 5 --eval-every 1000 --log-every 1000 --preview-every 100000 --workers 0 --steps 100000"
mkdir -p "$out"
cd "$out"

start() {  # MODEL OPTIONS...: train in the background, and wait for the first state
    local model=$1
    shift
    $imgtf tokenizer train --model "$model" $small "$@" 2> log & run=$!
    while ! ls "$model"/training/tokenizer/state 2> /dev/null | grep -qv tmp; do sleep 0.05; done
}

ended() {  # MODEL: wait for the run; print its last lines, and what is left of it
    local code=0
    wait "$run" || code=$?
    grep -v "^tokenizer\|^data\|^digits" log | tail -4 | cut -c1-300 || true
    echo "exit code $code; left in the folder of the run:"
    (cd "$1" && find training/tokenizer/state tokenizer -mindepth 1 -maxdepth 1 2> /dev/null | sort | sed 's/^/    /') || true
}

goes_on() {  # MODEL: resume for a few steps
    local step
    step=$(ls "$1/training/tokenizer/state" | sort | tail -1 | sed 's/step-0*//')
    $imgtf tokenizer train --model "$1" --resume --steps $((step + 5)) --eval-every 5 2>&1 | tail -1
}

echo "== the disk is full while states are written"
mkdir -p disk && mount -t tmpfs -o size=16m tmpfs disk
start disk/m
dd if=/dev/zero of=disk/other bs=64k 2> /dev/null || true
ended disk/m
rm disk/other
goes_on disk/m
umount disk

echo "== the disk is full for three seconds"
mount -t tmpfs -o size=16m tmpfs disk
start disk/m
dd if=/dev/zero of=disk/other bs=64k 2> /dev/null || true
while ! grep -q "next try" log; do sleep 0.05; done
rm disk/other
sleep 3
kill -INT $run
ended disk/m
umount disk

echo "== the folder of the states can no longer be written"
start readonly
chattr +i readonly/training/tokenizer/state
ended readonly
chattr -i readonly/training/tokenizer/state
goes_on readonly

echo "== SIGTERM while a state is written"
start term
while ! ls -d term/training/tokenizer/state/*.tmp > /dev/null 2>&1; do sleep 0.01; done
kill -TERM $run
ended term
goes_on term

echo "== a second SIGINT, while the state of the first one is written"
start twice
kill -INT $run
while ! ls -d twice/training/tokenizer/state/*.tmp > /dev/null 2>&1 && kill -0 $run 2> /dev/null; do sleep 0.01; done
kill -INT $run 2> /dev/null || true
ended twice
goes_on twice

echo "== the folder is removed"
start gone
rm -rf gone
ended gone
ls -d gone 2> /dev/null || echo "the folder is not made again"

echo "== a second run in the folder, then SIGKILL of the first"
start both
$imgtf tokenizer train --model both $small --force 2>&1 | tail -1 || true
kill -KILL $run
ended both
goes_on both
