#!/usr/bin/env bash
# What a card is for, in one call of under nine minutes: first that the results are right, then how
# fast, then IMDB from IMDB's own text. Needs the repository, its packages, transformers for the
# peer, and IMDB's files in data/imdb. Writes one JSON, from which the tables are made.
#
#     tests/benchmarks/gpu.sh gpu.json            on a card
#     TOY=1 tests/benchmarks/gpu.sh toy.json      the same steps in small, on a CPU
set -uo pipefail
out=$(realpath -m "${1:-gpu.json}")
cd "$(dirname "$0")/../.."
exec python3 -m tests.benchmarks.gpu "$out"
