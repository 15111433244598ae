#!/usr/bin/env bash
# What the preset auto picks, and whether --minutes ends on time.
#     benchmarks/auto.sh pick OUT DATA...            the line of auto for each data set; nothing is trained for longer than
#                                                    a few steps
#     benchmarks/auto.sh time OUT DATA MINUTES BURN  a tokenizer by --minutes; BURN: none, or the seconds after which two
#                                                    processes start that keep two cores busy
#     benchmarks/auto.sh both OUT DATA MINUTES       auto and tiny, both stages, with the same time each
# Results: benchmarks/RESULTS.md
set -euo pipefail
what=$1 out=$2 data=$3
imgtf=${IMGTF:-imgtf}
case $what in
    pick)
        for folder in "${@:3}"; do
            $imgtf tokenizer train --data "$folder" --model "$out/$(basename "$folder")" --max-minutes 0.5 2>&1 |
                grep "^auto" || true
        done
        ;;
    time)
        burners=()
        if [[ $5 != none ]]; then
            for _ in 1 2; do
                (sleep "$5" && exec python3 -c "while True: pass") & burners+=($!)
            done
        fi
        start=$(date +%s.%N)
        $imgtf tokenizer train --data "$data" --minutes "$4" --model "$out" 2>&1 | grep -E "^auto|fit the time|best at"
        echo "seconds: $(python3 -c "print(round($(date +%s.%N) - $start, 1))")"
        for burner in "${burners[@]}"; do kill "$burner"; done
        ;;
    both)
        for preset in auto tiny; do
            for stage in tokenizer prior; do
                more=(--preset "$preset" --minutes "$4" --model "$out/$preset")
                if [[ $stage == tokenizer ]]; then more+=(--data "$data"); fi
                $imgtf $stage train "${more[@]}" 2>&1 | grep -E "^auto|best at"
            done
        done
        ;;
esac
