# What the suites and benches share: where things are, and how they are found or made. Sourced, not run.
#
#   POSTERN         the binary to test; default: this checkout's release build, brought up to date first
#   POSTERN_CACHE   downloads, Python environments and the API server; default ~/.cache/postern
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

# skip REASON: ends the suite as one that could not run, in place of this shell.
skip() { echo "SKIPPED: the suite did not run: $1"; exit 77; }

# The Kubernetes API server of the tests, absolute, in APISERVER. Changed sources make a new one; old ones are removed.
need_apiserver() {
    local sources=$root/tests/apiserver digest
    digest=$(cd "$sources" && cat -- build.sh go.mod go.sum *.go | sha256sum | cut -c1-12)
    APISERVER=$cache/apiserver-$digest
    mkdir -p "$cache"
    (
        flock 9
        [ -x "$APISERVER" ] && exit 0
        echo "building the Kubernetes API server: several minutes the first time" >&2
        "$sources/build.sh" "$APISERVER.new" && rm -f "$cache"/apiserver-???????????? && mv "$APISERVER.new" "$APISERVER"
    ) 9>"$cache/apiserver.lock" || return 1
    export APISERVER
}

# Whether need_apiserver can do it: Go is there, and new enough for the sources.
can_build_apiserver() { command -v go >/dev/null && (cd "$root/tests/apiserver" && go list -m >/dev/null 2>&1); }

# need_go_programs NAME FOLDER PROGRAM=PACKAGE…: programs built from a Go module, in the folder GO_PROGRAMS, kept in the cache by the hash of
# its sources; older ones are removed.
need_go_programs() {
    local name=$1 sources=$2 digest entry
    shift 2
    digest=$(cd "$sources" && find . -name 'go.*' -o -name '*.go' | LC_ALL=C sort | xargs cat -- | sha256sum | cut -c1-12)
    GO_PROGRAMS=$cache/$name-$digest
    mkdir -p "$cache"
    (
        flock 9
        [ -e "$GO_PROGRAMS/complete" ] && exit 0
        rm -rf "$cache/$name"-????????????
        cd "$sources" || exit 1
        for entry in "$@"; do
            go build -trimpath -o "$GO_PROGRAMS/${entry%%=*}" "${entry#*=}" || exit 1
        done
        touch "$GO_PROGRAMS/complete"
    ) 9>"$cache/$name.lock"
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
    apt-get -o Acquire::Retries=3 update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -qq -y --no-install-recommends "${missing[@]}" >&2
}

# need_tools TOOL…: skips the suite where one is missing.
need_tools() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || skip "\`$tool\` is missing"
    done
}

# need_cluster: a Kubernetes API server, and kubectl; skips the suite where there is neither. It is built from tests/apiserver with Go.
# Where there is no Go, the cluster of KUBECONFIG serves if it says that it may be spoiled: `kubectl create namespace
# postern-disposable`. Everything in deploy/kubernetes is applied to it.
need_cluster() {
    local minor
    need_programs kubectl=kubernetes-client || skip "\`kubectl\` is missing"
    minor=$(kubectl version --client -o json | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' | head -n 1)
    [ "${minor:-0}" -ge 28 ] || skip "\`kubectl\` is older than 1.28"
    if can_build_apiserver; then
        need_apiserver
    elif [ -z "${KUBECONFIG:-}" ]; then
        skip "Go 1.24 or newer is missing, and KUBECONFIG names no disposable cluster"
    else
        kubectl get namespace postern-disposable >/dev/null ||
            skip "Go is missing, and the cluster of KUBECONFIG has no namespace \`postern-disposable\`"
        unset APISERVER
    fi
}

# run_pytest FOLDER [ARGUMENTS]: runs the tests of a folder, in place of this shell, with its own list of packages or the common one.
run_pytest() {
    local folder=$1 list=$root/$1/requirements.txt
    shift
    [ -f "$list" ] || list=$root/tests/keycloak/requirements.txt
    need_tools python3 flock
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "Python 3.11 or newer is missing"
    python3 -c 'import venv, ensurepip' 2>/dev/null || skip "Python's \`venv\` module is missing (Debian: python3-venv)"
    need_postern
    need_venv "$list"
    cd "$root/$folder"
    exec "$PYTHON" -m pytest -p no:cacheprovider --tb=short --durations=10 --quiet -rfE "$@"
}
