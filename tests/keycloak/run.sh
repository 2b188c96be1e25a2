#!/usr/bin/env bash
# The integration suite against a real Keycloak.  run.sh [--full] [pytest arguments]
# POSTERN names the binary (default: this checkout's release build). Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

need_tools java mvn
run_pytest tests/keycloak "$@"
