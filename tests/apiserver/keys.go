package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// keySet holds the paths of what lies in DIR/pki, and the administrator's token.
type keySet struct {
	ca, caKey               string // of serving and client certificates
	servingCert, servingKey string
	adminCert, adminKey     string // O=system:masters
	serviceKey, servicePub  string // of ServiceAccounts' tokens
	tokens                  string // --token-auth-file
	kubeconfig              string // DIR/kubeconfig
	adminToken              string
}

// prepareKeys makes all keys at the first start in a folder, and finds them at the next.
func prepareKeys(o options) (*keySet, error) {
	folder := filepath.Join(o.dir, "pki")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	keys := &keySet{
		ca: in("ca.crt"), caKey: in("ca.key"),
		servingCert: in("apiserver.crt"), servingKey: in("apiserver.key"),
		adminCert: in("admin.crt"), adminKey: in("admin.key"),
		serviceKey: in("sa.key"), servicePub: in("sa.pub"),
		tokens: in("tokens.csv"), kubeconfig: filepath.Join(o.dir, "kubeconfig"),
	}
	last := in("admin.token") // of what is made
	if _, err := os.Stat(last); os.IsNotExist(err) {
		if err := makeCertificates(keys); err != nil {
			return nil, err
		}
		if err := makeServiceKey(keys, o.serviceKeyType); err != nil {
			return nil, err
		}
		if err := makeAdminToken(keys, last); err != nil {
			return nil, err
		}
	}
	token, err := os.ReadFile(last)
	if err != nil {
		return nil, err
	}
	keys.adminToken = string(token)
	return keys, writeKubeconfig(keys, o.server)
}

// authority signs the certificates of the server and of the administrator.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func makeCertificates(keys *keySet) error {
	ca, err := makeAuthority(keys)
	if err != nil {
		return err
	}
	err = ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1)},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
	}, keys.servingKey, keys.servingCert)
	if err != nil {
		return err
	}
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, keys.adminKey, keys.adminCert)
}

func makeAuthority(keys *keySet) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "apiserver-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{key, certificate}, writePair(keys.caKey, key, keys.ca, der)
}

func (a *authority) issue(template *x509.Certificate, keyPath, certPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := sign(template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePair(keyPath, key, certPath, der)
}

// sign makes a certificate that is valid for a year, and began an hour ago.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, now.Add(-time.Hour), now.AddDate(1, 0, 0)
	return x509.CreateCertificate(rand.Reader, template, parent, public, key)
}

func writePair(keyPath string, key *ecdsa.PrivateKey, certPath string, certificate []byte) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyPath, "EC PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writePEM(certPath, "CERTIFICATE", certificate, 0o644)
}

// makeServiceKey writes the key in the forms that kube-apiserver and its JWT library read: PKCS#1 and SEC 1.
func makeServiceKey(keys *keySet, algorithm string) error {
	var public crypto.PublicKey
	var kind string
	var der []byte
	var err error
	switch algorithm {
	case "RS256":
		var key *rsa.PrivateKey
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
			public, kind, der = key.Public(), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)
		}
	case "ES256", "ES384":
		curve := elliptic.P256()
		if algorithm == "ES384" {
			curve = elliptic.P384()
		}
		var key *ecdsa.PrivateKey
		if key, err = ecdsa.GenerateKey(curve, rand.Reader); err == nil {
			public, kind = key.Public(), "EC PRIVATE KEY"
			der, err = x509.MarshalECPrivateKey(key)
		}
	default:
		err = fmt.Errorf("--sa-alg: unknown algorithm %q", algorithm)
	}
	if err != nil {
		return err
	}
	if err := writePEM(keys.serviceKey, kind, der, 0o600); err != nil {
		return err
	}
	der, err = x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	return writePEM(keys.servicePub, "PUBLIC KEY", der, 0o644)
}

func makeAdminToken(keys *keySet, path string) error {
	random := make([]byte, 24)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	token := hex.EncodeToString(random)
	line := fmt.Sprintf("%s,admin,admin,\"system:masters\"\n", token)
	if err := os.WriteFile(keys.tokens, []byte(line), 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(token), 0o600)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
