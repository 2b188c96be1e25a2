#!/usr/bin/env bash
# Builds the API server of the tests.  build.sh FILE
# The first time about ten minutes of processor time, 80 MB of downloads and 2 GB of Go's build cache; then seconds.
set -euo pipefail
file=$(realpath -m "${1:?usage: build.sh FILE}")
cd "$(dirname "${BASH_SOURCE[0]}")"

# Without its version the server would call itself v0.0.0-master.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.} minor=${minor%%.*}
package=k8s.io/component-base/version
go build -trimpath -o "$file" -ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=1
    -X $package.gitMinor=$minor -X $package.gitTreeState=clean" .
