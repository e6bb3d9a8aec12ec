#!/usr/bin/env bash
# The whole paper: the twelve runs and their twins with weight decay, the six grids, the tables.
#   bash runs/paper.sh [--num_seeds=32 --device=cuda ...]      options go to every run
#   MODELS="mini_14 mini_28" bash runs/paper.sh                only some sizes
# Goes on where it stopped. Minutes on a large GPU; on a CPU the n-models take an hour or two, each MLT days: leave it out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements.txt
prepare_all
failed=
for model in ${MODELS:-mini_14 mini_28 mini_56 mlt}; do
    for task in math facts both; do
        for twin in "" _wd; do
            train "${task}_$model$twin" "$@" || failed="$failed ${task}_$model$twin"
        done
    done
done
for wd in "" --wd; do
    "$python" plot_all_models.py $wd
    "$python" analysis/make_tables.py $wd
done
[ -z "$failed" ] || { echo "error: these runs did not come to their end:$failed" >&2; exit 1; }
