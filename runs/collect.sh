#!/usr/bin/env bash
# Collect in results/ what runs/paper.sh and sweep.py trained: CSVs, run.json, a plot of each run, the grids, the tables,
# and the figures and verdicts of sweeps. Then update the numbers in README.md, docs/ and config/.
#   bash runs/collect.sh [FOLDER_WITH_THE_RUNS]      (default: here)
set -euo pipefail
from=$(cd "${1:-.}" && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements-dev.txt

# collect SEED_FOLDER TO: copy its results.csv, and its run.json with paths relative to the folder of the runs.
collect() {
    mkdir -p "$2"
    cp "$1/results.csv" "$2"
    local text
    text=$(cat "$1/run.json")
    printf '%s\n' "${text//"$from/"/}" > "$2/run.json"
}

for wd in "" _wd; do
    for run in "$from"/{math,facts,both}_{mini_14,mini_28,mini_56,mlt}$wd; do
        for folder in "$run" "$run"/seed_*; do
            if [ -f "$folder/results.csv" ]; then
                collect "$folder" "results/${folder#"$from"/}"
                [ ! -f "$folder/answers.npz" ] || cp "$folder/answers.npz" "results/${folder#"$from"/}"
            fi
        done
        if [ -d "results/$(basename "$run")" ]; then
            "$python" plot_results.py --model_folder "results/$(basename "$run")"
        fi
    done
    if compgen -G "results/*_m*$wd/" > /dev/null; then
        "$python" plot_all_models.py --root_dir results --output_dir results ${wd:+--wd}
        "$python" analysis/make_tables.py --root_dir results ${wd:+--wd} > "results/tables$wd.md"
    fi
done
for summary in "$from"/sweeps/*/summary.csv; do
    [ -f "$summary" ] || continue
    sweep=$(dirname "$summary")
    to=results/$(basename "$sweep")
    mkdir -p "$to"
    cp "$summary" "$to"
    seeds=("$sweep"/*/seed_*/results.csv)
    if [ ${#seeds[@]} -le 100 ]; then    # of larger sweeps only the summary
        for csv in "${seeds[@]}"; do
            collect "$(dirname "$csv")" "$to/$(dirname "${csv#"$sweep"/}")"
        done
    fi
    case $(basename "$sweep") in
        # The scores of controls are in docs/findings.md; in a figure beside the paper's they would mislead.
        control_pairs) "$python" analysis/plot_capacity.py "$summary" --output_dir "$to" --only=heldout ;;
        control_*) "$python" analysis/plot_capacity.py "$summary" --output_dir "$to" --only=training ;;
        bits_*) ;;    # measured by analysis/measure_capacity.py, see below
        *_wide) ;;    # drawn with the other widths of the same question
        *)
            all=("$summary")
            [ ! -f "${sweep}_wide/summary.csv" ] || all+=("${sweep}_wide/summary.csv")
            "$python" analysis/plot_capacity.py "${all[@]}" --output_dir "$to" ;;
    esac
done
if [ -f "$from/bits.csv" ]; then
    mkdir -p results/bits
    cp "$from"/bits{,_plateau,_asked}.csv results/bits
    "$python" analysis/plot_bits.py --folder results/bits --output_dir results/bits
fi
if compgen -G "results/control_answers*/summary.csv" > /dev/null; then
    "$python" analysis/plot_room.py results/*/summary.csv --output_dir results
fi
race=("$from"/sweeps/{arithmetic/n_embd=14_weight_decay=0.0,arithmetic/n_embd=28_weight_decay=0.0}
      "$from"/sweeps/{control_line/n_embd=28_windows=line,control_fresh/n_embd=28_line_order=fresh}
      "$from"/sweeps/{arithmetic_wide/n_embd=56,control_line/n_embd=56_windows=line})
for run in "${race[@]}"; do [ -d "$run" ] || race=(); done
[ ${#race[@]} = 0 ] || "$python" analysis/plot_race.py "${race[@]}" --output_dir results
if compgen -G "results/*/summary.csv" > /dev/null; then
    "$python" analysis/make_claims.py results/*/summary.csv > results/claims.md
fi
for folder in results/facts_skewed results/both_skewed; do
    [ ! -f "$folder/trace.json" ] || "$python" analysis/plot_trace.py "$folder/trace.json"
    [ ! -f "$folder/frequency.csv" ] || "$python" analysis/plot_frequency.py "$folder/frequency.csv"
done
"$python" runs/readme.py
