# What the suites and benches share: where things are, and how they are found or made. Sourced, not run.
#
#   POSTERN         the binary to test; default: this checkout's release build, brought up to date first
#   POSTERN_CACHE   downloads and Python environments; default ~/.cache/postern
#   CI              set in CI: what cannot run there has failed

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${POSTERN_CACHE:-$HOME/.cache/postern}

# The release binary, absolute, in POSTERN.
need_postern() {
    if [ -z "${POSTERN:-}" ]; then
        (cd "$root" && cargo build --release --quiet) || return 1
        POSTERN=${CARGO_TARGET_DIR:-$root/target}/release/postern
    fi
    POSTERN=$(realpath "$POSTERN")
    [ -x "$POSTERN" ] || { echo "$POSTERN: no such binary" >&2; return 1; }
    export POSTERN
}

# need_venv REQUIREMENTS: the Python of an environment that holds them, in PYTHON. A changed list makes a new one.
need_venv() {
    local venv
    venv=$cache/venv-$(sha256sum <"$1" | cut -c1-12)
    mkdir -p "$cache"
    (
        flock 9
        [ -e "$venv/complete" ] && exit 0
        rm -rf "$venv"
        python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --requirement "$1" && touch "$venv/complete"
    ) 9>"$venv.lock" || return 1
    PYTHON=$venv/bin/python
    export PYTHONDONTWRITEBYTECODE=1
}

# need_programs PROGRAM[=PACKAGE]…: each is on the PATH, or is installed from the system's packages.
need_programs() {
    local entry missing=()
    PATH=$PATH:/usr/sbin:/sbin
    export PATH
    for entry in "$@"; do
        command -v "${entry%%=*}" >/dev/null || missing+=("${entry##*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]} (and this is no root on a Debian)" >&2
        return 1
    fi
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
}

# run_pytest FOLDER [ARGUMENTS]: runs the tests of a folder that need the real Keycloak, in place of this shell.
run_pytest() {
    local folder=$1 tool
    shift
    skip() { echo "SKIPPED: the suite in $folder did not run: $1"; exit 77; }
    for tool in java mvn python3 flock; do
        command -v $tool >/dev/null || skip "\`$tool\` is missing"
    done
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "Python 3.11 or newer is missing"
    python3 -c 'import venv, ensurepip' 2>/dev/null || skip "Python's \`venv\` module is missing (Debian: python3-venv)"
    need_postern
    need_venv "$root/tests/keycloak/requirements.txt"
    cd "$root/$folder"
    exec "$PYTHON" -m pytest -p no:cacheprovider --tb=short --durations=10 --quiet -rfE "$@"
}
