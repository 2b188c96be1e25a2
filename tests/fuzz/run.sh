#!/usr/bin/env bash
# Coverage-guided fuzzing of what parses strangers' bytes: each target of fuzz/ for 10 seconds, with --full ten minutes.
# Needs a nightly toolchain; cargo-fuzz is installed if it is missing. What was found lies in fuzz/artifacts/TARGET.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
cd "$root"

seconds=10
[ "${1:-}" = --full ] && seconds=600
targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | tail -n +2)

command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
# `unsafe` is forbidden in the crate, so the sanitizer would only watch the dependencies, at twice the time.
if ! cargo +nightly fuzz build --sanitizer none --target-dir "$root/fuzz/target"; then
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

built=fuzz/target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release

passed=0 failed=0
for target in $targets; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    echo "fuzz $target, $seconds s"
    seeds=$(mktemp -d)
    case $target in
    config) cp config/*.toml "$seeds" ;;
    *) cp "fuzz/seeds/$target/"* "$seeds" ;;
    esac
    if log=$("$built/$target" "fuzz/corpus/$target" "$seeds" -artifact_prefix="fuzz/artifacts/$target/" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8000 2>&1); then
        passed=$((passed + 1))
        tail -n 1 <<<"$log"
    else
        failed=$((failed + 1))
        tail -n 40 <<<"$log"
    fi
    rm -r "$seeds"
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
