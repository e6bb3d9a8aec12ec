# Sourced by the other scripts: makes .venv beside them on the first call, and has it hold the packages of one file.
#   source runs/environment.sh requirements.txt
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, this is $(python3 --version)" >&2; exit 2; }
    python3 -m venv .venv
fi
# Asking pip takes seconds even where there is nothing to do: it is asked once for each content of the file.
stamp=".venv/$1.installed"
if ! cat requirements.txt "$1" | cmp -s - "$stamp"; then
    echo "installing $1 into .venv (once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
    cat requirements.txt "$1" > "$stamp"
fi
