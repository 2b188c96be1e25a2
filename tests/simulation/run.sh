#!/usr/bin/env bash
# The watch over users against a simulated Keycloak: each seed is a case.  run.sh [--full]
# A seed that fails is printed as `seed N` after the last of what happened; `POSTERN_SEED=N tests/simulation/run.sh` plays it
# again with all of it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
cd "$root"

[ "${1:-}" != --full ] || export POSTERN_FULL=1
output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0
cargo test --test simulation -- --nocapture 2>&1 | tee "$output" || status=$?
grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$output" | tail -n 1 || echo "0 passed, 1 failed, 0 skipped"
exit "$status"
