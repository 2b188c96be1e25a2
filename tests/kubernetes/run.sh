#!/usr/bin/env bash
# The suite against a real Kubernetes API server: deploy/kubernetes, and who may do what.  run.sh [--full] [pytest arguments]
# Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

need_cluster
need_programs faketime || echo "WARNING: there is no faketime: tokens are not tried at another time" >&2
run_pytest tests/kubernetes "$@"
