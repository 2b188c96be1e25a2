#!/bin/sh
# The compiler, as cargo calls it (`rustc-wrapper`). A release build is laid out by what a gateway does under load, as it was counted in
# release.profdata. There the names of functions are those of one compiler on one host (release.by), so any other does without, and so does a
# build with `--target`, whose names are others. `bench/run pgo` counts, with POSTERN_COUNT=FOLDER.
is_release= is_fast= before=
for argument; do
    case "$before $argument" in
    "--target "*) exec "$@" ;;
    "--out-dir "*/release/deps) is_release=yes ;;
    # What runs in the build itself is not optimized, and what runs at the start or beside requests is optimized for size.
    "-C opt-level=3") is_fast=yes ;;
    esac
    before=$argument
done
here=$(dirname "$0")
if [ -z "$is_release" ] || [ -z "$is_fast" ]; then
    exec "$@"
elif [ -n "$POSTERN_COUNT" ]; then
    exec "$@" "-Cprofile-generate=$POSTERN_COUNT"
elif [ "$("$1" -vV)" = "$(cat "$here/release.by")" ]; then
    # What was changed since is built without.
    exec "$@" "-Cprofile-use=$here/release.profdata" -Cllvm-args=-no-pgo-warn-mismatch
fi
exec "$@"
