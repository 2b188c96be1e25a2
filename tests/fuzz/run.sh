#!/usr/bin/env bash
# Coverage-guided fuzzing of what parses strangers' bytes: each target of fuzz/ for 10 seconds, with --full ten minutes.
# Needs a nightly toolchain; cargo-fuzz is installed if it is missing. What was found lies in fuzz/artifacts/TARGET.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
cd "$root"

# The short run tells whether what was found stays mended: it plays the same each time, and not for so long that it would repay optimizing.
seconds=10 seed=1 build=--dev folder=debug
[ "${1:-}" = --full ] && seconds=600 seed=0 build=--debug-assertions folder=release
targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | tail -n +2)

command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
# `unsafe` is forbidden in the crate, so the sanitizer would only watch the dependencies, at twice the time.
if ! cargo +nightly fuzz build "$build" --sanitizer none --target-dir "$root/fuzz/target"; then
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

built=fuzz/target/$(rustc +nightly -vV | sed -n 's/^host: //p')/$folder

export built seconds seed
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
export results

# Says how it went in one piece, since others run beside it.
fuzz() {
    local target=$1 log seeds said
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    seeds=$(mktemp -d -p "$results")
    case $target in
    config) cp config/*.toml "$seeds" ;;
    *) cp "fuzz/seeds/$target/"* "$seeds" ;;
    esac
    if log=$("$built/$target" "fuzz/corpus/$target" "$seeds" -artifact_prefix="fuzz/artifacts/$target/" \
        -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8000 2>&1); then
        touch "$results/$target.passed"
        said=$(tail -n 1 <<<"$log")
    else
        touch "$results/$target.failed"
        said=$(tail -n 40 <<<"$log")
    fi
    printf 'fuzz %s, %s s\n%s\n' "$target" "$seconds" "$said"
}
export -f fuzz

# As many at once as there are cores: ten minutes each, one after another, would be a morning.
xargs -P "$(nproc)" -I{} bash -c 'fuzz {}' <<<"$targets"

count() { find "$results" -maxdepth 1 -name "*.$1" | wc -l; }
passed=$(count passed) failed=$(count failed)
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
