#!/usr/bin/env bash
# From nothing to a trained model: environment, data, the paper's smallest arithmetic model, its score and its plot.
#   bash runs/quickstart.sh
# A second call reuses what exists and continues what was interrupted. Takes minutes on two CPU cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements.txt
run=math_mini_14
prepare_all
train "$run"
"$python" eval_as_math.py --out_dir="$run" --ckpt=ckpt_best_combined.pt
"$python" plot_results.py --model_folder "$run"
echo
echo "The best checkpoint is $PWD/$run/ckpt_best_combined.pt, every evaluation is in $PWD/$run/results.csv."
if [ -z "${PYTHON:-}" ]; then
    echo "For the other commands, once in each new shell:"
    printf '    cd %q && source .venv/bin/activate\n' "$PWD"
fi
