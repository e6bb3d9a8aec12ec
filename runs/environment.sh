# Sourced by the other scripts: makes .venv beside them on the first call, and has it hold the packages of one file.
#   source runs/environment.sh requirements.txt
# With PYTHON=/path/to/python in the environment that one is used as it is, and nothing is installed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
if [ -z "${PYTHON:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, this is $(python3 --version)" >&2; exit 2; }
        python3 -m venv .venv
    fi
    # Asking pip takes seconds even where there is nothing to do: it is asked once for each content of the files.
    stamp=".venv/$1.installed"
    if ! cat requirements*.txt | cmp -s - "$stamp"; then
        echo "installing $1 into .venv (once)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
        cat requirements*.txt > "$stamp"
    fi
fi

# train NAME [--key=value ...]: the run of config/train_NAME.py, from the start or on from where it was stopped.
train() {
    local name=$1 go_on=
    shift
    if compgen -G "$name/ckpt.pt" || compgen -G "$name/seed_*/ckpt.pt" || compgen -G "$name/*tbtt.commit.json"; then
        go_on=--init_from=resume
    fi > /dev/null
    $python train_with_eval.py "config/train_$name.py" $go_on "$@"
}

prepare_all() {
    local dataset
    for dataset in as_math facts_char both_math_and_facts; do
        [ -f "data/$dataset/meta.pkl" ] || $python "data/$dataset/prepare.py"
    done
}
