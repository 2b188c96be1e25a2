#!/usr/bin/env bash
# The suite about traffic: protocols, clients and servers made elsewhere, on both sides of Postern.  run.sh [--full] [pytest arguments]
# POSTERN names the binary (default: this checkout's release build). Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

need_programs curl nghttp=nghttp2-client nginx=nginx-light node=nodejs javac=default-jdk-headless ip=iproute2 || true
need_tools go curl nghttp nginx node java javac keytool ip nsenter
need_go_programs traffic "$root/tests/traffic/go" upstream=./upstream h2spec=github.com/summerwind/h2spec/cmd/h2spec ||
    skip "Go 1.24 or newer is missing, or its modules cannot be had"
TRAFFIC_PROGRAMS=$GO_PROGRAMS
export TRAFFIC_PROGRAMS
run_pytest tests/traffic "$@"
