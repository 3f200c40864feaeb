#!/bin/sh
# Where a card is lent, under nine minutes: the factors with five seeds at size small, and the grid
# of passes, on python-docs. Then: python -m tests.benchmarks.objectives OUT/factors OUT/grid
set -e
out=${1:?usage: objectives_gpu.sh OUT}
card="--device cuda --precision bfloat16 --no-compile --finetunings 1 --batch-size 128"
timeout 330 python -m minilm compare --factors --size small --seeds 5 --steps 200 $card \
    --run "$out/factors" || echo "not finished: go on with --run $out/factors --resume"
timeout 200 python -m minilm compare --grid --size tiny --seeds 3 --steps 150 $card \
    --run "$out/grid" || echo "not finished: go on with --run $out/grid --resume"
