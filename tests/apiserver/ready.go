package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// waitForServer returns once /readyz answers 200.
func waitForServer(ctx context.Context, server string, keys *keySet) error {
	ca, err := os.ReadFile(keys.ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+keys.adminToken)
	return retry(ctx, func() bool {
		answer, err := client.Do(request)
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// writeReady tells others that everything works, and how to reach it.
func writeReady(o options, keys *keySet, took time.Duration) (string, error) {
	path := readyFile(o.dir)
	err := writeJSON(path+".new", map[string]any{
		"server": o.server, "issuer": o.issuer, "pid": os.Getpid(), "kubeconfig": keys.kubeconfig,
		"ca": keys.ca, "admin_token": keys.adminToken, "admin_cert": keys.adminCert, "admin_key": keys.adminKey,
		"sa_key": keys.serviceKey, "kubelet_port": o.kubeletPort, "startup_ms": took.Milliseconds(),
	})
	if err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

func readyFile(dir string) string { return filepath.Join(dir, "ready.json") }

func forgetReady(dir string) { _ = os.Remove(readyFile(dir)) }

// writeKubeconfig writes the administrator's. JSON is YAML, and bytes become base64.
func writeKubeconfig(keys *keySet, server string) error {
	ca, err := os.ReadFile(keys.ca)
	if err != nil {
		return err
	}
	named := func(name, kind string, value map[string]any) []any {
		return []any{map[string]any{"name": name, kind: value}}
	}
	return writeJSON(keys.kubeconfig, map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": named("test", "cluster", map[string]any{"server": server, "certificate-authority-data": ca}),
		"users":    named("admin", "user", map[string]any{"token": keys.adminToken}),
		"contexts": named("test", "context", map[string]any{"cluster": "test", "user": "admin"}),
	})
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
