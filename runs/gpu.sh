#!/usr/bin/env bash
# Everything for a CUDA GPU in one call: check it against the CPU, measure its speed, train the whole paper with many seeds
# and two sweeps, and collect all in results/ and the README.
#   PYTHON=python3 bash runs/gpu.sh         uses the torch of that Python; without PYTHON, .venv
# A second call repeats tests and benchmark, and continues the trainings. NUM_SEEDS and MLT_SEEDS set the number of seeds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements-dev.txt
"$python" -m pytest -q tests/test_captured.py tests/test_engine.py
"$python" bench.py --device=cuda --full --json > bench_gpu.tmp    # if interrupted, results/ gets no file
mv bench_gpu.tmp results/bench_gpu.json
MODELS="mini_14 mini_28 mini_56" bash runs/paper.sh --num_seeds="${NUM_SEEDS:-32}"
MODELS=mlt bash runs/paper.sh --num_seeds="${MLT_SEEDS:-4}"
"$python" sweep.py config/sweep_capacity.py
"$python" sweep.py config/sweep_heldout.py
bash runs/collect.sh
