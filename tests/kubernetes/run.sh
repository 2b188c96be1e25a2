#!/usr/bin/env bash
# The suite against a real Kubernetes API server: deploy/kubernetes, and who may do what.  run.sh [--full] [pytest arguments]
# Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

need_cluster
run_pytest tests/kubernetes "$@"
