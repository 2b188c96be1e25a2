#!/usr/bin/env bash
# Faults under k6's load, each with its count of failed requests.  run.sh [--full] [--only NAME]
# POSTERN names the binary (default: this checkout's release build). Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

RUNLEVEL=1 need_programs redis-server || true # without starting one
need_tools python3 flock redis-server
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "Python 3.11 or newer is missing"
python3 -c 'import venv, ensurepip' 2>/dev/null || skip "Python's \`venv\` module is missing (Debian: python3-venv)"
need_postern
need_venv "$root/bench/requirements.txt"
exec "$PYTHON" "$root/tests/faults/main.py" "$@"
