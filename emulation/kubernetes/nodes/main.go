// Command nodes emulates the two roads from the API server into a cluster: konnectivity, an HTTP CONNECT proxy on a unix socket that
// every connection to pods and kubelets goes through, and the HTTPS API of every node's kubelet (logs and port-forward), with
// Kubernetes' own code for logs and streams.
//
// It follows the pods by files that the kubelet fixture writes: DIR/NAMESPACE/POD/ip, CONTAINER.log (in the form of the container
// runtimes) and CONTAINER.running, and DIR/forwards.json with {"10.64.0.5:8265": "127.0.0.1:40001"} for ports of pods that are
// emulated by a server of a test. Other addresses of pods are dialled only with -pods-are-here, in the pods' own network: on the
// machine's they are somebody else's, who would be sent the cluster's token.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/klog/v2"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // knows how to read a log request's query

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	kubeletPort = "10250"
	dialTimeout = 5 * time.Second
	idleTimeout = 4 * time.Hour // the kubelet's own default for streams
)

var (
	pods     = flag.String("pods", "", "directory of the pods' files")
	podsHere = flag.Bool("pods-are-here", false, "the pods' addresses are of this network")
)

func main() {
	socket := flag.String("socket", "", "unix socket of the CONNECT proxy")
	certificate := flag.String("tls-cert-file", "", "the kubelets' serving certificate")
	key := flag.String("tls-private-key-file", "", "its key")
	clientCA := flag.String("client-ca-file", "", "who may ask the kubelets is signed by it")
	flag.Parse()

	kubelets := &connections{make(chan net.Conn)}
	server := &http.Server{Handler: kubeletAPI(), TLSConfig: onlyClientsOf(*clientCA), ReadHeaderTimeout: dialTimeout}
	go func() { log.Fatal(server.ServeTLS(kubelets, *certificate, *key)) }()

	_ = os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go tunnel(connection, kubelets)
	}
}

func onlyClientsOf(path string) *tls.Config {
	pem, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	// HTTP/2 cannot be upgraded to a stream.
	return &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"http/1.1"}}
}

// tunnel serves one CONNECT of the API server: to a kubelet, or to a port of a pod.
func tunnel(connection net.Conn, kubelets *connections) {
	request, err := http.ReadRequest(bufio.NewReader(connection))
	if err != nil || request.Method != http.MethodConnect {
		_ = connection.Close()
		return
	}
	_, port, _ := net.SplitHostPort(request.Host)
	if port == kubeletPort {
		fmt.Fprint(connection, "HTTP/1.1 200 OK\r\n\r\n")
		kubelets.arrived <- connection
		return
	}
	target, err := dial(request.Host)
	if err != nil {
		fmt.Fprintf(connection, "HTTP/1.1 502 %s\r\n\r\n", strings.ReplaceAll(err.Error(), "\n", " "))
		_ = connection.Close()
		return
	}
	fmt.Fprint(connection, "HTTP/1.1 200 OK\r\n\r\n")
	join(connection, target)
}

func dial(address string) (net.Conn, error) {
	forwards := map[string]string{}
	if data, err := os.ReadFile(filepath.Join(*pods, "forwards.json")); err == nil {
		_ = json.Unmarshal(data, &forwards)
	}
	elsewhere, forwarded := forwards[address]
	if forwarded {
		address = elsewhere
	} else if !*podsHere {
		return nil, fmt.Errorf("nothing listens at %s: this pod is emulated", address)
	}
	return net.DialTimeout("tcp", address, dialTimeout)
}

// join copies both ways until both sides have said all they had to.
func join(a io.ReadWriteCloser, b io.ReadWriteCloser) {
	done := make(chan struct{}, 2)
	copyHalf := func(to, from io.ReadWriteCloser) {
		_, _ = io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			_ = to.Close()
		}
		done <- struct{}{}
	}
	go copyHalf(a, b)
	go copyHalf(b, a)
	<-done
	<-done
	_ = a.Close()
	_ = b.Close()
}

// connections is a listener of connections that arrived otherwise.
type connections struct{ arrived chan net.Conn }

func (c *connections) Accept() (net.Conn, error) { return <-c.arrived, nil }
func (c *connections) Close() error              { return nil }
func (c *connections) Addr() net.Addr            { return &net.UnixAddr{Name: "kubelets", Net: "unix"} }

func kubeletAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", containerLogs)
	mux.HandleFunc("/portForward/{namespace}/{pod}", portForward)
	return mux
}

func directory(request *http.Request) string {
	return filepath.Join(*pods, filepath.Base(request.PathValue("namespace")), filepath.Base(request.PathValue("pod")))
}

func portForward(response http.ResponseWriter, request *http.Request) {
	ip, err := os.ReadFile(filepath.Join(directory(request), "ip"))
	if err != nil {
		http.Error(response, "the pod has no address", http.StatusNotFound)
		return
	}
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(response, request, podAt(ip), request.PathValue("pod"), "", options,
		idleTimeout, dialTimeout, portforward.SupportedProtocols)
}

type podAt string

func (ip podAt) PortForward(_ context.Context, _ string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	target, err := dial(fmt.Sprintf("%s:%d", string(ip), port))
	if err != nil {
		return err
	}
	join(stream, target)
	return nil
}

func containerLogs(response http.ResponseWriter, request *http.Request) {
	options := &corev1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(request.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	container := filepath.Base(request.PathValue("container"))
	name := container
	if options.Previous {
		name += ".previous"
	}
	running := runtimeService{file: filepath.Join(directory(request), container+".running")}
	logger := klog.FromContext(request.Context())
	out := flushing{response}
	path := filepath.Join(directory(request), name+".log")
	err := logs.ReadLogs(request.Context(), &logger, path, container, logs.NewLogOptions(options, time.Now()), running, out, out)
	if err != nil {
		fmt.Fprintln(response, err)
	}
}

// runtimeService answers the one question that following a log asks: does the container still run?
type runtimeService struct {
	internalapi.RuntimeService
	file string
}

func (r runtimeService) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if _, err := os.Stat(r.file); err == nil {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(data []byte) (int, error) {
	n, err := f.ResponseWriter.Write(data)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}
