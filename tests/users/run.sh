#!/usr/bin/env bash
# The suite about users against a real Keycloak: who is out, how soon, and stays out.  run.sh [--full] [pytest arguments]
# POSTERN names the binary (default: this checkout's release build). Ends with status 77 where it had to be skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

# Users from a directory need a real slapd. Without one those tests are skipped, and in CI they fail. RUNLEVEL keeps
# Debian from starting a service of its own at the installation.
RUNLEVEL=1 need_programs slapd ldapmodify=ldap-utils ||
    echo "WARNING: there is no slapd: nothing is known about users from a directory" >&2
need_tools java mvn
run_pytest tests/users "$@"
