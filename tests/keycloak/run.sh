#!/usr/bin/env bash
# The integration suite against a real Keycloak.  run.sh [--full] [pytest arguments]
# POSTERN names the binary (default: this checkout's release build). Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

skip() { echo "SKIPPED: the Keycloak suite did not run: $1"; exit 77; }
for tool in java mvn python3 flock; do
    command -v $tool >/dev/null || skip "\`$tool\` is missing"
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "Python 3.11 or newer is missing"
python3 -c 'import venv, ensurepip' 2>/dev/null || skip "Python's \`venv\` module is missing (Debian: python3-venv)"

need_postern
need_venv "$root/tests/keycloak/requirements.txt"
cd "$root/tests/keycloak"
exec "$PYTHON" -m pytest -p no:cacheprovider --tb=short --durations=10 --quiet -rfE "$@"
