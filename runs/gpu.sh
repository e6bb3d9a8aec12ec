#!/usr/bin/env bash
# All that this project asks of a CUDA GPU, in one call: correct against the CPU, then how fast, then the whole paper with
# many seeds, then into results/ and the README.
#   PYTHON=python3 bash runs/gpu.sh         with a torch that is there; without PYTHON in .venv
# Goes on where it stopped. NUM_SEEDS and MLT_SEEDS say how many seeds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements-dev.txt
"$python" -m pytest -q tests/test_captured.py tests/test_engine.py
"$python" bench.py --device=cuda --full --json > bench_gpu.tmp    # broken off it leaves no file in results/
mv bench_gpu.tmp results/bench_gpu.json
MODELS="mini_14 mini_28 mini_56" bash runs/paper.sh --num_seeds="${NUM_SEEDS:-32}"
MODELS=mlt bash runs/paper.sh --num_seeds="${MLT_SEEDS:-4}"
"$python" sweep.py config/sweep_capacity.py
"$python" sweep.py config/sweep_heldout.py
bash runs/collect.sh
