#!/usr/bin/env bash
# The acceptance kit against Postern, all groups: tokens, headers, smuggling, keys and abuse.  run.sh [--full]
#
#   POSTERN_KIT   where the kit lies; default ../shared/kit beside the checkout
# --full changes nothing. Other arguments go to kit.py, such as --match REGEX or --group tokens.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

kit=${POSTERN_KIT:-$root/../shared/kit}
if [ ! -f "$kit/kit.py" ]; then
    if [ -n "${POSTERN_KIT:-}" ] || [ -e "$kit" ]; then
        echo "$kit holds no kit.py" >&2
        echo "0 passed, 1 failed, 0 skipped"
        exit 1
    fi
    # Not a failure even in CI: the kit is no part of this repository.
    echo "SKIPPED: there is no acceptance kit at $kit (POSTERN_KIT says where it is)"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
kit=$(realpath "$kit")

arguments=()
for argument in "$@"; do
    [ "$argument" = --full ] || arguments+=("$argument")
done

need_postern
need_venv "$kit/requirements.txt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# kit.py's own verdict is stricter than ours: judge.py has the last word, and its lines are what is shown when all is well.
"$PYTHON" "$kit/kit.py" run --adapter "$root/tests/kit/adapter.py" --json rows.json "${arguments[@]}" >kit.log 2>&1 || true
if [ ! -f rows.json ]; then
    cat kit.log
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
again=()
late=$("$PYTHON" "$root/tests/kit/judge.py" --late rows.json)
if [ -n "$late" ]; then
    "$PYTHON" "$kit/kit.py" run --adapter "$root/tests/kit/adapter.py" --match "$late" --json again.json >>kit.log 2>&1 || true
    [ ! -f again.json ] || again=(again.json)
fi
"$PYTHON" "$root/tests/kit/judge.py" rows.json "$root/docs/security.md" "${again[@]}" >verdict || { cat kit.log verdict; exit 1; }
cat verdict
