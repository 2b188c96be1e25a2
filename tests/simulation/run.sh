#!/usr/bin/env bash
# The watch over users against a simulated Keycloak, and replicas of the token service over a cluster in memory: each seed is a case.
# Then how often Keycloak, the API server and Redis are asked.
# run.sh [--full]
# A seed that fails is named after the last of what happened, with the variable that plays it again with all of it:
# `POSTERN_SEED=N` (users) or `POSTERN_REPLICAS_SEED=N` (replicas) before tests/simulation/run.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
cd "$root"

[ "${1:-}" != --full ] || export POSTERN_FULL=1
output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0
cargo test --profile suite --test simulation -- --nocapture 2>&1 | tee "$output" || status=$?
awk '/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { lines++; passed += $1; failed += $3 }
    END { if (lines < 6 && !failed) failed = 1; printf "%d passed, %d failed, 0 skipped\n", passed, failed }' "$output"
exit "$status"
