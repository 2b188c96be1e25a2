// Command apiserver is a real Kubernetes API server for Postern's tests, in one process and with nothing installed:
// etcd on a unix socket, kube-apiserver on loopback, and the controllers without which namespaces, ServiceAccounts and
// the built-in roles do not work. There is no scheduler, and the kubelet runs nothing: pods are admitted, stored, and stay Pending.
// A pod of a Node at the port of that kubelet can be spoken with: what is sent to a container comes back.
//
//	apiserver --dir DIR [--port N] [--issuer URL] [--exit-with-stdin] [-- FLAGS OF KUBE-APISERVER]
//
// All that it makes lies in DIR: keys, certificates, the state, an administrator's kubeconfig and, once everything
// works, ready.json; then it also prints a line `ready PATH`.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// options are the command line, and what is derived from it.
type options struct {
	dir             string
	port            int
	kubeletPort     int
	server          string // https://127.0.0.1:PORT
	issuer          string
	serviceKeyType  string
	withControllers bool
	durable         bool
	exitWithStdin   bool
	verbosity       int
	further         []string // flags of kube-apiserver
}

// stopPatience is how long a stopped server may take: kube-apiserver would wait a minute for open watches.
const stopPatience = 2 * time.Second

func main() {
	o, err := parseOptions()
	if err != nil {
		log.Fatal(err)
	}
	status, err := run(o, time.Now())
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(status)
}

func parseOptions() (options, error) {
	var o options
	var none bool
	flag.StringVar(&o.dir, "dir", "", "the folder of the state; made if absent, used again if not")
	flag.IntVar(&o.port, "port", 0, "port on 127.0.0.1; 0 takes a free one")
	flag.StringVar(&o.issuer, "issuer", "", "issuer of ServiceAccounts' tokens (default https://127.0.0.1:PORT)")
	flag.StringVar(&o.serviceKeyType, "sa-alg", "RS256", "algorithm of ServiceAccounts' tokens: RS256, ES256 or ES384")
	flag.BoolVar(&none, "no-controllers", false, "run no controllers")
	flag.BoolVar(&o.durable, "durable", false, "let etcd wait for the disk")
	flag.BoolVar(&o.exitWithStdin, "exit-with-stdin", false, "end when standard input ends: with the one who started it")
	flag.IntVar(&o.verbosity, "verbosity", 0, "-v of kube-apiserver")
	flag.Parse()
	o.withControllers = !none
	o.further = flag.Args()
	if o.dir == "" {
		return o, fmt.Errorf("--dir is missing")
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	if o.port == 0 {
		if o.port, err = freePort(); err != nil {
			return o, err
		}
	}
	o.server = "https://127.0.0.1:" + strconv.Itoa(o.port)
	if o.issuer == "" {
		o.issuer = o.server
	}
	return o, nil
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// run serves until it is told to stop, and gives the exit status.
func run(o options, begun time.Time) (int, error) {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return 0, err
	}
	forgetReady(o.dir) // of a run before
	keys, err := prepareKeys(o)
	if err != nil {
		return 0, err
	}
	if o.kubeletPort, err = startKubelet(keys); err != nil {
		return 0, err
	}
	etcd, endpoint, err := startEtcd(o.dir, o.durable)
	if err != nil {
		return 0, err
	}
	defer etcd.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	endInTime(o, cancel)
	go func() {
		if err := becomeReady(ctx, o, keys, begun); err != nil && ctx.Err() == nil {
			log.Printf("not ready: %v", err)
			terminate()
		}
	}()
	// The command takes SIGTERM and SIGINT itself, and returns when it has stopped.
	command := app.NewAPIServerCommand()
	command.SetArgs(serverFlags(o, keys, endpoint))
	status := cli.Run(command)
	forgetReady(o.dir)
	return status, nil
}

func serverFlags(o options, keys *keySet, etcd string) []string {
	return append([]string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(o.port),
		"--tls-cert-file=" + keys.servingCert,
		"--tls-private-key-file=" + keys.servingKey,
		"--client-ca-file=" + keys.ca,
		"--token-auth-file=" + keys.tokens,
		"--service-account-issuer=" + o.issuer,
		"--service-account-signing-key-file=" + keys.serviceKey,
		"--service-account-key-file=" + keys.servicePub,
		"--service-account-jwks-uri=" + o.server + "/openid/v1/jwks",
		"--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.0.0.0/24",
		// A loopback address is no valid endpoint.
		"--endpoint-reconciler-type=none",
		"--allow-privileged=true",
		"--profiling=false",
		"-v=" + strconv.Itoa(o.verbosity),
	}, o.further...)
}

// endInTime ends the process soon after a signal, or, if asked to, after the end of standard input.
func endInTime(o options, cancel context.CancelFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-signals
		cancel()
		time.Sleep(stopPatience)
		forgetReady(o.dir)
		os.Exit(0)
	}()
	if o.exitWithStdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			terminate()
		}()
	}
}

func terminate() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
}

// becomeReady starts the controllers when the server answers, and says so when everything works.
func becomeReady(ctx context.Context, o options, keys *keySet, begun time.Time) error {
	if err := waitForServer(ctx, o.server, keys); err != nil {
		return err
	}
	if o.withControllers {
		if err := startControllers(ctx, keys); err != nil {
			return fmt.Errorf("controllers: %w", err)
		}
		if err := waitForControllers(ctx, keys); err != nil {
			return err
		}
	}
	path, err := writeReady(o, keys, time.Since(begun))
	if err == nil {
		fmt.Printf("ready %s\n", path)
	}
	return err
}
