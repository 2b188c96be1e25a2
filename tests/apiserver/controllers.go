package main

import (
	"context"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/clusterroleaggregation"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/namespace"
	accounts "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

const resync = 10 * time.Hour

// startControllers runs those of kube-controller-manager that need no nodes, as the administrator. There is one of
// each, so nobody is elected.
func startControllers(ctx context.Context, keys *keySet) error {
	config, client, err := administrator(keys)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	objects := informers.NewSharedInformerFactory(client, resync)
	core := objects.Core().V1()
	ca, err := os.ReadFile(keys.ca)
	if err != nil {
		return err
	}

	// `default` in each namespace, without which pods are refused.
	defaults, err := accounts.NewServiceAccountsController(core.ServiceAccounts(), core.Namespaces(), client,
		accounts.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return err
	}
	// Secrets of type kubernetes.io/service-account-token.
	stored, err := storedTokens(ctx, keys, ca, client, objects)
	if err != nil {
		return err
	}
	// ConfigMap kube-root-ca.crt in each namespace.
	authority, err := rootcacertpublisher.NewPublisher(core.ConfigMaps(), core.Namespaces(), client, ca)
	if err != nil {
		return err
	}
	// Without it a deleted namespace stays Terminating.
	namespaces := namespace.NewNamespaceController(ctx, client, meta,
		client.Discovery().ServerPreferredNamespacedResources, core.Namespaces(), 5*time.Minute, v1.FinalizerKubernetes)
	// Without it the roles admin, edit and view are empty.
	roles := clusterroleaggregation.NewClusterRoleAggregation(objects.Rbac().V1().ClusterRoles(), client.RbacV1())

	go defaults.Run(ctx, 1)
	go stored.Run(ctx, 1)
	go authority.Run(ctx, 1)
	go namespaces.Run(ctx, 2)
	go roles.Run(ctx, 2)
	return collectGarbage(ctx, client, meta, objects)
}

func storedTokens(ctx context.Context, keys *keySet, ca []byte, client kubernetes.Interface,
	objects informers.SharedInformerFactory) (*accounts.TokensController, error) {
	key, err := keyutil.PrivateKeyFromFile(keys.serviceKey)
	if err != nil {
		return nil, err
	}
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return nil, err
	}
	core := objects.Core().V1()
	return accounts.NewTokensController(klog.FromContext(ctx), core.ServiceAccounts(), core.Secrets(), client,
		accounts.TokensControllerOptions{TokenGenerator: generator, RootCA: ca})
}

// collectGarbage starts the informers of all controllers too, because this one must know when they run.
func collectGarbage(ctx context.Context, client kubernetes.Interface, meta metadata.Interface,
	objects informers.SharedInformerFactory) error {
	metas := metadatainformer.NewSharedInformerFactory(meta, resync)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	started := make(chan struct{})
	collector, err := garbagecollector.NewGarbageCollector(ctx, client, meta, mapper,
		garbagecollector.DefaultIgnoredResources(), informerfactory.NewInformerFactory(objects, metas), started)
	if err != nil {
		return err
	}
	go collector.Run(ctx, 2, 30*time.Second)
	go collector.Sync(ctx, client.Discovery(), 30*time.Second)
	objects.Start(ctx.Done())
	metas.Start(ctx.Done())
	close(started)
	return nil
}

// waitForControllers returns once pods can be made in `default`, and the role `view` has its rules.
func waitForControllers(ctx context.Context, keys *keySet) error {
	_, client, err := administrator(keys)
	if err != nil {
		return err
	}
	return retry(ctx, func() bool {
		if _, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return false
		}
		view, err := client.RbacV1().ClusterRoles().Get(ctx, "view", metav1.GetOptions{})
		return err == nil && len(view.Rules) > 0
	})
}

func administrator(keys *keySet) (*rest.Config, *kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", keys.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	return config, client, err
}

// retry asks 20 times a second until the answer is yes.
func retry(ctx context.Context, ask func() bool) error {
	for !ask() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
