//go:build tools

// Package traffic holds what the suite needs in Go: an upstream, and h2spec, which this file keeps in go.mod.
package traffic

import _ "github.com/summerwind/h2spec/cmd/h2spec"
