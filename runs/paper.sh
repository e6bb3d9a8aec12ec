#!/usr/bin/env bash
# The whole paper: the twelve runs, the same with weight decay, the six grids, the tables.
#   bash runs/paper.sh [--num_seeds=32 --device=cuda ...]      options go to every run
#   MODELS="mini_14 mini_28" bash runs/paper.sh                only some sizes
# A second call continues where the first stopped. On two CPU cores the n-models took 21 minutes (Intel Xeon) and 25
# (AMD EPYC), and each MLT takes 7 hours or more: leave the MLT out. On a GPU it was never run.
# On a CPU two runs train at the same time, on half of the cores each: an eighth faster than one by one (AT_ONCE=1).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements.txt
prepare_all
AT_ONCE=${AT_ONCE:-$("$python" -c '
import sys
from tbtt.device import choose_device
named = [option.removeprefix("--device=") for option in sys.argv if option.startswith("--device=")]
print(2 if choose_device((named or ["auto"])[-1]).type == "cpu" else 1)' "$@")}
cores=$(getconf _NPROCESSORS_ONLN)
[ "$AT_ONCE" = 1 ] || export OMP_NUM_THREADS=$(((cores + AT_ONCE - 1) / AT_ONCE))

# run NAME [--key=value ...]: train, with the name before each line; if it fails, write the name to descriptor 3.
run() {
    train "$@" 2>&1 | {
        trap "" INT    # go on reading: the training says how it ended
        while IFS= read -r line; do printf '%s: %s\n' "$1" "$line"; done
    } || echo -n " $1" >&3
}
export python
export -f train run
exec 4>&1
# With xargs, because Ctrl-C would not reach the processes that bash runs in the background.
failed=$(for model in ${MODELS:-mini_14 mini_28 mini_56 mlt}; do
    printf '%s\n' {math,facts,both}"_$model"{,_wd}
done | xargs -P "$AT_ONCE" -I NAME bash -o pipefail -c 'run "$@"' run NAME "$@" 3>&1 >&4)
[ -z "$failed" ] || echo "error: these runs did not finish:$failed" >&2
for wd in "" --wd; do
    "$python" plot_all_models.py $wd
    "$python" analysis/make_tables.py $wd
done
[ -z "$failed" ]
