#!/usr/bin/env bash
# All tests, in the environment of the quickstart, on all cores.
#   bash runs/test.sh [pytest's options]      -m "not slow": the quick part; -n 0: in one process
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements-dev.txt
# Otherwise each process would compile all tests and modules again, which takes a tenth of the time.
unset PYTHONDONTWRITEBYTECODE
# One worker more than there are cores, because some tests only wait for processes or for time to pass.
exec "$python" -m pytest -q -n "$(($(getconf _NPROCESSORS_ONLN) + 1))" --dist worksteal "$@"
