#!/usr/bin/env bash
# Postern in both roles between a real Keycloak and a real Kubernetes API server.  run.sh [--full] [pytest arguments]
# POSTERN names the binary (default: this checkout's release build). Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

need_cluster
need_tools java mvn
run_pytest tests/scenario "$@"
