// Upstream is a server on Go's net/http that answers with what it read. It prints its ports as one line of JSON, and ends with its
// standard input.
//
//	upstream CERTIFICATE KEY ADDRESS
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
)

// What was read of a request. Bytes are given as the characters of ISO 8859-1, one each.
type echo struct {
	Serial   int64       `json:"serial"`
	Protocol string      `json:"protocol"`
	Method   string      `json:"method"`
	Target   string      `json:"target"`
	Path     string      `json:"path"` // as the server understands it: decoded
	Host     string      `json:"host"`
	Headers  [][2]string `json:"headers"`
	Length   int64       `json:"length"`
	Digest   string      `json:"digest"`
	Trailers [][2]string `json:"trailers"`
}

func latin1(text string) string {
	runes := make([]rune, len(text))
	for at := range len(text) {
		runes[at] = rune(text[at])
	}
	return string(runes)
}

func pairs(header http.Header) [][2]string {
	all := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			all = append(all, [2]string{strings.ToLower(name), latin1(value)})
		}
	}
	sort.SliceStable(all, func(a, b int) bool { return all[a][0] < all[b][0] })
	return all
}

type handler struct{ serial atomic.Int64 }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	switch {
	case strings.HasPrefix(r.URL.Path, "/stream"): // each piece of the body comes back at once
		h.stream(w, r)
	case strings.HasPrefix(r.URL.Path, "/status/"):
		w.WriteHeader(number)
	case strings.HasPrefix(r.URL.Path, "/bytes/"):
		piece := []byte(strings.Repeat("0123456789abcdef", 4096))
		for number > 0 {
			part := piece[:min(number, len(piece))]
			if _, err := w.Write(part); err != nil {
				return
			}
			number -= len(part)
		}
	case strings.HasPrefix(r.URL.Path, "/trailers"):
		w.Header().Set("Trailer", "X-Sum, X-Late")
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		w.Header().Set("X-Sum", "of the body")
		w.Header().Set("X-Late", "yes")
	default:
		h.echo(w, r)
	}
}

func (h *handler) stream(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	control.EnableFullDuplex()
	w.WriteHeader(200)
	control.Flush()
	piece := make([]byte, 64<<10)
	for {
		read, err := r.Body.Read(piece)
		if read > 0 {
			if _, err := w.Write(piece[:read]); err != nil {
				return
			}
			control.Flush()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				panic(http.ErrAbortHandler)
			}
			return
		}
	}
}

func (h *handler) echo(w http.ResponseWriter, r *http.Request) {
	digest := sha256.New()
	length, err := io.Copy(digest, r.Body)
	if err != nil { // half a request is none
		panic(http.ErrAbortHandler)
	}
	read := echo{
		Serial: h.serial.Add(1), Protocol: r.Proto, Method: r.Method, Target: latin1(r.RequestURI),
		Path: latin1(r.URL.Path), Host: r.Host, Length: length, Digest: hex.EncodeToString(digest.Sum(nil)),
		Headers: pairs(r.Header), Trailers: pairs(r.Trailer),
	}
	body, _ := json.Marshal(read)
	w.Header().Set("X-Serial", strconv.FormatInt(read.Serial, 10))
	if r.Method != http.MethodHead {
		w.Header().Set("X-Body", "yes") // else its length is that of what is not sent
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// listen starts a server of its own count, so that each tells how many requests it read.
func listen(network, address string, protocols func(*http.Protocols), config *tls.Config) string {
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Handler: &handler{}, TLSConfig: config, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0),
		DisableGeneralOptionsHandler: true,
	}
	protocols(server.Protocols)
	go func() {
		if config == nil {
			log.Fatal(server.Serve(listener))
		}
		log.Fatal(server.ServeTLS(listener, "", ""))
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func main() {
	certificate, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	secure := func() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{certificate}} }
	http1 := func(p *http.Protocols) { p.SetHTTP1(true) }
	h2c := func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }
	http2 := func(p *http.Protocols) { p.SetHTTP2(true) }
	address := net.JoinHostPort(os.Args[3], "0")
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"http1":  listen("tcp", address, http1, nil),
		"nginx":  listen("tcp", address, http1, nil), // behind nginx
		"h2c":    listen("tcp", address, h2c, nil),
		"https1": listen("tcp", address, http1, secure()),
		"https2": listen("tcp", address, http2, secure()),
		"ipv6":   listen("tcp", "[::1]:0", http1, nil),
	})
	io.Copy(io.Discard, os.Stdin)
}
