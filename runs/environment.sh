# Sourced by the other scripts: makes .venv in the project on the first call, and installs the packages of one file there.
#   source runs/environment.sh requirements.txt
# If PYTHON=/path/to/python is set in the environment, that Python is used as it is, and nothing is installed.
fail() {
    echo "error: $*" >&2
    exit 2
}

# check_python COMMAND: does it exist, and is it new enough? The check has to run in Python 2 too.
check_python() {
    command -v "$1" > /dev/null || fail "no $1 here: install Python 3.10 or newer, or name one: PYTHON=/path/to/python"
    "$1" -c 'import sys
if sys.version_info < (3, 10):
    sys.exit("error: Python 3.10 or newer is needed, this is " + sys.version.split()[0])' || exit 2
}

# .venv is complete as long as this output stays the same: its Python, and the contents of the requirements files.
installed_now() {
    .venv/bin/python -VV
    cat requirements*.txt
}

# make_venv FILE: pip takes seconds even if there is nothing to do, so it is called once for each state.
make_venv() {
    local stamp=.venv/$1.installed
    if [ -f .venv/bin/activate ] && installed_now 2> /dev/null | cmp -s - "$stamp"; then
        return
    fi
    # Making it was interrupted, or its Python was removed or replaced.
    if ! { [ -f .venv/bin/activate ] && .venv/bin/python -m pip --version; } > /dev/null 2>&1; then
        check_python python3
        [ ! -e .venv ] || echo "making .venv anew: it is incomplete"
        python3 -m venv --clear .venv
    fi
    echo "installing $1 into .venv (once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
    installed_now > "$stamp"
}

# A relative PYTHON with a slash is looked for in the caller's folder, then in the project.
project=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$project/.venv/bin/python}
case $python in
    /*) ;;
    */*) if [ -x "$PWD/$python" ]; then python=$PWD/$python; else python=$project/$python; fi ;;
esac
cd "$project"
if [ -n "${PYTHON:-}" ]; then check_python "$python"; else make_venv "$1"; fi

# train NAME [--key=value ...]: train config/train_NAME.py, from the start or from where it was stopped.
train() {
    local name=$1 go_on=
    shift
    if compgen -G "$name/ckpt.pt" || compgen -G "$name/seed_*/ckpt.pt" || compgen -G "$name/tbtt.commit.json" ||
        compgen -G "$name/seed_*/tbtt.commit.json"; then
        go_on=--init_from=resume
    fi > /dev/null
    "$python" train_with_eval.py "config/train_$name.py" $go_on "$@"
}

prepare_all() {
    local dataset
    for dataset in as_math facts_char both_math_and_facts; do
        [ -f "data/$dataset/meta.pkl" ] || "$python" "data/$dataset/prepare.py"
    done
}
