#!/usr/bin/env bash
# The suite against a real Kubernetes API server: deploy/kubernetes, and who may do what.  run.sh [--full] [pytest arguments]
# Ends with status 77 where it had to be skipped.
#
# The server is built from tests/apiserver with Go. Where there is no Go, the cluster of KUBECONFIG serves if it says that it
# may be spoiled: `kubectl create namespace postern-disposable`. Everything in deploy/kubernetes is applied to it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

need_programs kubectl=kubernetes-client || skip "\`kubectl\` is missing"
minor=$(kubectl version --client -o json | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' | head -n 1)
[ "${minor:-0}" -ge 28 ] || skip "\`kubectl\` is older than 1.28"
need_programs faketime || echo "WARNING: there is no faketime: tokens are not tried at another time" >&2
if can_build_apiserver; then
    need_apiserver
elif [ -z "${KUBECONFIG:-}" ]; then
    skip "Go 1.24 or newer is missing, and KUBECONFIG names no disposable cluster"
else
    kubectl get namespace postern-disposable >/dev/null ||
        skip "Go is missing, and the cluster of KUBECONFIG has no namespace \`postern-disposable\`"
    unset APISERVER
fi
run_pytest tests/kubernetes "$@"
