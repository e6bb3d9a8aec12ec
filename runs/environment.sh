# Sourced by the other scripts: makes .venv beside them on the first call, and has it hold the packages of one file.
#   source runs/environment.sh requirements.txt
# With PYTHON=/path/to/python in the environment that one is used as it is, and nothing is installed.
fail() {
    echo "error: $*" >&2
    exit 2
}

# check_python COMMAND: is it there, and new enough? Python 2 must understand the question.
check_python() {
    command -v "$1" > /dev/null || fail "no $1 here: install Python 3.10 or newer, or name one: PYTHON=/path/to/python"
    "$1" -c 'import sys
if sys.version_info < (3, 10):
    sys.exit("error: Python 3.10 or newer is needed, this is " + sys.version.split()[0])' || exit 2
}

# What has to be the same for .venv to be complete: its Python, and what the files of requirements say.
installed_now() {
    .venv/bin/python -VV
    cat requirements*.txt
}

# make_venv FILE: asking pip takes seconds even where there is nothing to do, so it is asked once for each state.
make_venv() {
    local stamp=.venv/$1.installed
    if [ -f .venv/bin/activate ] && installed_now 2> /dev/null | cmp -s - "$stamp"; then
        return
    fi
    # Broken off while it was made, or its Python was removed or is another now.
    if ! { [ -f .venv/bin/activate ] && .venv/bin/python -m pip --version; } > /dev/null 2>&1; then
        check_python python3
        [ ! -e .venv ] || echo "making .venv anew: it is not complete"
        python3 -m venv --clear .venv
    fi
    echo "installing $1 into .venv (once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
    installed_now > "$stamp"
}

# A PYTHON with a slash is looked for where the caller stands, then in the project.
project=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$project/.venv/bin/python}
case $python in
    /*) ;;
    */*) if [ -x "$PWD/$python" ]; then python=$PWD/$python; else python=$project/$python; fi ;;
esac
cd "$project"
if [ -n "${PYTHON:-}" ]; then check_python "$python"; else make_venv "$1"; fi

# train NAME [--key=value ...]: the run of config/train_NAME.py, from the start or on from where it was stopped.
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
