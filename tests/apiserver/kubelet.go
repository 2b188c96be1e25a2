package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	streams "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
	cri "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	"k8s.io/utils/exec"
)

// kubelet answers the API server as the node of any pod, though it runs nothing: what is sent to a container comes back.
type kubelet struct{}

const (
	idleTimeout    = 4 * time.Hour
	creationWithin = 30 * time.Second
)

// startKubelet serves on loopback with the API server's own certificate, and gives the port.
func startKubelet(keys *keySet) (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", logs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if options, err := cri.NewOptions(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		} else {
			cri.ServeExec(w, r, kubelet{}, r.PathValue("pod"), "", r.PathValue("container"), r.URL.Query()["command"],
				options, idleTimeout, creationWithin, streams.SupportedStreamingProtocols)
		}
	})
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if options, err := cri.NewOptions(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		} else {
			cri.ServeAttach(w, r, kubelet{}, r.PathValue("pod"), "", r.PathValue("container"),
				options, idleTimeout, creationWithin, streams.SupportedStreamingProtocols)
		}
	})
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		if options, err := portforward.NewV4Options(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		} else {
			portforward.ServePortForward(w, r, kubelet{}, r.PathValue("pod"), "", options, idleTimeout, creationWithin,
				portforward.SupportedProtocols)
		}
	})
	// SPDY needs HTTP/1.1.
	without := map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server := &http.Server{Handler: mux, TLSNextProto: without}
	go func() { _ = server.ServeTLS(listener, keys.servingCert, keys.servingKey) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// logs tells one line, and with `follow` a further one whenever the last has gone out and a moment has passed.
func logs(w http.ResponseWriter, r *http.Request) {
	for line := 1; ; line++ {
		if _, err := fmt.Fprintf(w, "line %d of %s\n", line, r.PathValue("pod")); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		if r.URL.Query().Get("follow") != "true" {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ExecInContainer says the command and gives back what comes in. The command `false` fails.
func (kubelet) ExecInContainer(_ context.Context, pod string, _ types.UID, _ string, command []string, in io.Reader,
	out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	if command[0] == "false" {
		return exec.CodeExitError{Err: fmt.Errorf("it failed"), Code: 3}
	}
	return echo("exec "+pod+": "+strings.Join(command, " "), in, out)
}

// AttachContainer greets and gives back what comes in.
func (kubelet) AttachContainer(_ context.Context, pod string, _ types.UID, _ string, in io.Reader, out, _ io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize,
) error {
	return echo("attach "+pod, in, out)
}

// PortForward says the port and gives back what comes in.
func (kubelet) PortForward(_ context.Context, pod string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	return echo(fmt.Sprintf("port %d of %s", port, pod), stream, stream)
}

func echo(greeting string, in io.Reader, out io.Writer) error {
	if _, err := io.WriteString(out, greeting+"\n"); err != nil || in == nil {
		return err
	}
	_, err := io.Copy(out, in)
	return err
}
