#!/usr/bin/env bash
# Starts a real Keycloak on loopback with the realm of this folder, and nothing else on the machine is touched.
#
#   start.sh [PORT] [--fresh] [--realm FILE]
#                                    start; prints `url=… pid=…`; does nothing if it is already up
#   start.sh stop [PORT] [--remove]  stop the one that was started on PORT; --remove deletes its data too
#
# PORT is 18080 by default. Each port has a database of its own, so several can run side by side; it survives a
# restart, and --fresh sets it back to what was imported. FILE is another file for the realm `demo`. Set-up happens once
# and is kept in $POSTERN_CACHE/keycloak (default ~/.cache/postern/keycloak): fetch with Maven, `kc.sh build`, import.
# Needs Linux, Java 17 or newer, and Maven for the first start.
set -euo pipefail

version=26.7.3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${POSTERN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/postern}/keycloak
realm_file=$here/realm-demo.json
distribution=$cache/keycloak-$version
start_limit=300 # seconds

command=start port=18080 fresh=no remove=no
while [ $# -gt 0 ]; do
    argument=$1; shift
    case $argument in
        stop) command=stop ;;
        --fresh) fresh=yes ;;
        --remove) remove=yes ;;
        --realm) realm_file=$(realpath "${1:?}"); shift ;;
        [0-9]*) port=$argument ;;
        *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

pid_file=$cache/$port.pid
data=$cache/data-$port
log=$cache/$port.log
url=http://127.0.0.1:$port/realms/demo

# The C1 compiler alone starts fastest, and no test runs long enough to miss the other.
export JAVA_OPTS_KC_HEAP="-Xms64m -Xmx384m -XX:TieredStopAtLevel=1"

database() { echo "--db-url=jdbc:h2:file:$1/keycloakdb;NON_KEYWORDS=VALUE"; }

# The pid file may be older than the last boot: the process must also be a Keycloak on this port.
running_pid() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "--http-port=$port " && echo "$pid"
}

# Discovery answers 200 only when the realm is there.
is_ready() {
    local status
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf 'GET /realms/demo/.well-known/openid-configuration HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$port" >&3
    read -r -t 5 status <&3
    [[ $status == *" 200 "* ]]
}

run_or_show() { # LOG COMMAND…: its output goes to LOG, which is shown only when it fails
    local output=$1; shift
    "$@" >>"$output" 2>&1 || { tail -n 30 "$output" >&2; return 1; }
}

fetch() {
    [ -x "$distribution/bin/kc.sh" ] && return
    echo "fetching Keycloak $version from Maven Central" >&2
    local scratch; scratch=$(mktemp -d "$cache/fetch.XXXXXX") # the plug-in litters the current folder
    (cd "$scratch" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack \
        -Dartifact="org.keycloak:keycloak-quarkus-dist:$version:zip" -DoutputDirectory="$scratch/out" >&2)
    chmod +x "$scratch/out/keycloak-$version"/bin/*.sh
    rm -rf "$distribution"
    mv "$scratch/out/keycloak-$version" "$distribution"
    rm -rf "$scratch"
}

build() {
    local flags=(--db=dev-file --features-disabled=admin,account,ciba,device-flow,par,organization,impersonation,kerberos,web-authn,passkeys,workflows,update-email)
    [ "$(cat "$distribution/built-with" 2>/dev/null)" = "${flags[*]}" ] && return
    echo "building Keycloak, once (1 to 2 minutes)" >&2
    : >"$cache/build.log"
    run_or_show "$cache/build.log" "$distribution/bin/kc.sh" build "${flags[@]}"
    echo "${flags[*]}" >"$distribution/built-with"
}

# Imports the realm into a database that is only ever copied: a copy costs nothing, an import 20 seconds or more.
import() {
    snapshot=$cache/imported-$version-$(sha256sum "$realm_file" | cut -c1-16)
    [ -d "$snapshot" ] && return
    echo "importing the realm, once for each version of $(basename "$realm_file")" >&2
    local scratch; scratch=$(mktemp -d "$cache/import.XXXXXX")
    : >"$cache/import.log"
    run_or_show "$cache/import.log" "$distribution/bin/kc.sh" import --optimized "$(database "$scratch")" --file "$realm_file"
    rm -f "$scratch"/*.trace.db
    mv "$scratch" "$snapshot"
}

start() {
    if pid=$(running_pid); then
        [ $fresh = no ] && { await "$pid"; return; }
        stop
    elif (is_ready) 2>/dev/null; then
        echo "port $port already serves a Keycloak that this script did not start" >&2; return 1
    fi
    mkdir -p "$cache"
    # One set-up at a time; a second start waits here and then finds everything done.
    exec 9>"$cache/lock"; flock 9
    fetch; build; import
    exec 9>&-
    if [ $fresh = yes ] || [ "$(cat "$data/imported-from" 2>/dev/null)" != "$snapshot" ]; then
        rm -rf "$data"; cp -r "$snapshot" "$data"; echo "$snapshot" >"$data/imported-from"
    fi
    # `--hostname` is what keeps `iss` the same whatever name a request came by; who asks for whom is believed on this machine.
    cd "$distribution"
    setsid bin/kc.sh start --optimized --cache=local --http-enabled=true --http-host=127.0.0.1 --http-port="$port" \
        --hostname="http://127.0.0.1:$port" --proxy-headers=xforwarded --proxy-trusted-addresses=127.0.0.0/8 \
        "$(database "$data")" >"$log" 2>&1 </dev/null &
    await $!
}

await() { # PID of kc.sh, which waits for java and passes SIGTERM on to it
    local deadline=$((SECONDS + start_limit))
    echo "$1" >"$pid_file"
    until (is_ready) 2>/dev/null; do
        kill -0 "$1" 2>/dev/null || { echo "Keycloak died:" >&2; tail -n 30 "$log" >&2; rm -f "$pid_file"; return 1; }
        [ $SECONDS -lt $deadline ] || { echo "Keycloak is not ready after $start_limit s" >&2; tail -n 30 "$log" >&2; stop; return 1; }
        sleep 0.2
    done
    echo "url=$url pid=$1"
}

stop() {
    local pid
    if pid=$(running_pid); then
        kill "$pid"
        for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 -- "-$pid" 2>/dev/null || true # its own process group: kc.sh and the java below it
    fi
    rm -f "$pid_file"
    if [ $remove = yes ]; then rm -rf "$data" "$log"; fi
}

$command
