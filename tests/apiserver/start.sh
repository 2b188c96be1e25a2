#!/usr/bin/env bash
# Starts the API server of the tests by hand, builds it first if need be, and prints how to reach and to stop it.
#   start.sh DIR [FLAGS OF apiserver] [-- FLAGS OF kube-apiserver]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
folder=$(realpath -m "${1:?usage: start.sh DIR [FLAGS]}")
shift

need_apiserver
mkdir -p "$folder"
rm -f "$folder/ready.json"
setsid "$APISERVER" --dir "$folder" "$@" >"$folder/log" 2>&1 </dev/null &
pid=$!
for _ in $(seq 1200); do
    if [ -e "$folder/ready.json" ]; then
        echo "export KUBECONFIG=$folder/kubeconfig # stop it with: kill $pid"
        exit 0
    fi
    kill -0 $pid 2>/dev/null || break
    sleep 0.1
done
kill $pid 2>/dev/null || true
echo "the API server is not ready:" >&2
tail -n 20 "$folder/log" >&2
exit 1
