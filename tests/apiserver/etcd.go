package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// longestSocket is a little less than what the kernel takes.
const longestSocket = 100

// startEtcd runs etcd in this process, on sockets under dir: it takes no port, and nobody else can reach it.
func startEtcd(dir string, durable bool) (*embed.Etcd, string, error) {
	clients := url.URL{Scheme: "unix", Path: filepath.Join(dir, "etcd.sock")}
	peers := url.URL{Scheme: "unix", Path: filepath.Join(dir, "etcd-peer.sock")}
	if len(peers.Path) > longestSocket {
		return nil, "", fmt.Errorf("the path of --dir is too long for a socket: %s", dir)
	}
	config := embed.NewConfig()
	config.Name = "only"
	config.Dir = filepath.Join(dir, "etcd")
	config.ListenClientUrls = []url.URL{clients}
	config.ListenPeerUrls = []url.URL{peers}
	// Advertised addresses must have a port. A single member never calls them.
	nobody := url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	config.AdvertiseClientUrls = []url.URL{nobody}
	config.AdvertisePeerUrls = []url.URL{nobody}
	config.InitialCluster = config.Name + "=" + nobody.String()
	config.LogLevel = "error"
	config.UnsafeNoFsync = !durable
	// A single member has nobody to wait for, and elects itself at once.
	config.TickMs = 10
	config.ElectionMs = 100
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, "", err
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, clients.String(), nil
	case err = <-server.Err():
	case <-time.After(30 * time.Second):
		err = fmt.Errorf("etcd was not ready in 30 s")
	}
	server.Close()
	return nil, "", err
}
