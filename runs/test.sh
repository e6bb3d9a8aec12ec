#!/usr/bin/env bash
# All tests, in the environment of the quickstart.
#   bash runs/test.sh [pytest's options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements-dev.txt
exec "$python" -m pytest -q "$@"
