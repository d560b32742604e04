package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const dialSeconds = 15 * time.Second

// directTCP is `ssh -L` and `ssh -D`: the client asks for a connection from inside the pod. Where it may go
// is the affair of the network policies, as for every other program of the run.
func directTCP(asked ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(asked.ExtraData(), &to); err != nil {
		_ = asked.Reject(ssh.ConnectionFailed, "the request cannot be read")
		return
	}
	direct(asked, "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
}

// directSocket is the same to a Unix socket of the pod; editors use it.
func directSocket(asked ssh.NewChannel) {
	var to struct {
		Path         string
		Reserved     string
		ReservedPort uint32
	}
	if err := ssh.Unmarshal(asked.ExtraData(), &to); err != nil {
		_ = asked.Reject(ssh.ConnectionFailed, "the request cannot be read")
		return
	}
	direct(asked, "unix", to.Path)
}

func direct(asked ssh.NewChannel, network, address string) {
	connection, err := net.DialTimeout(network, address, dialSeconds)
	if err != nil {
		_ = asked.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := asked.Accept()
	if err != nil {
		_ = connection.Close()
		return
	}
	join(channel, requests, connection)
}

// join copies both ways until both directions have ended. An end of one direction is passed on as such,
// because many protocols go on in the other.
func join(channel ssh.Channel, requests <-chan *ssh.Request, connection net.Conn) {
	inward := make(chan struct{})
	outward := make(chan struct{})
	go func() {
		defer close(inward)
		if _, err := io.Copy(connection, channel); err != nil {
			return
		}
		if half, ok := connection.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	go func() {
		defer close(outward)
		if _, err := io.Copy(channel, connection); err != nil {
			_ = channel.Close()
			return
		}
		_ = channel.CloseWrite()
	}()
	go func() {
		// The client closed the channel as a whole; what it sent before is still passed on.
		ssh.DiscardRequests(requests)
		<-inward
		_ = connection.Close()
	}()
	<-inward
	<-outward
	_ = channel.Close()
	_ = connection.Close()
}

// forwards are what the client lets us accept on its behalf: `ssh -R`, and its agent.
type forwards struct {
	ssh       *ssh.ServerConn
	lock      sync.Mutex
	listeners map[string]net.Listener
	agentPath string
	folder    string // of the agent's socket
}

func newForwards(server *ssh.ServerConn) *forwards {
	return &forwards{ssh: server, listeners: map[string]net.Listener{}}
}

type tcpForward struct {
	Host string
	Port uint32
}

type socketForward struct{ Path string }

// request answers one request of the connection as a whole.
func (f *forwards) request(request *ssh.Request) (bool, []byte) {
	switch request.Type {
	case "tcpip-forward":
		var asked tcpForward
		if ssh.Unmarshal(request.Payload, &asked) != nil {
			return false, nil
		}
		return f.listenTCP(asked)
	case "cancel-tcpip-forward":
		var asked tcpForward
		return ssh.Unmarshal(request.Payload, &asked) == nil && f.cancel(asked.key()), nil
	case "streamlocal-forward@openssh.com":
		var asked socketForward
		return ssh.Unmarshal(request.Payload, &asked) == nil && f.listenSocket(asked.Path), nil
	case "cancel-streamlocal-forward@openssh.com":
		var asked socketForward
		return ssh.Unmarshal(request.Payload, &asked) == nil && f.cancel(asked.Path), nil
	}
	return false, nil
}

func (asked tcpForward) key() string { return fmt.Sprintf("%s\x00%d", asked.Host, asked.Port) }

// listenTCP listens on the pod's loopback only, whatever address was asked for: others shall not reach
// the client's machine through the pod.
func (f *forwards) listenTCP(asked tcpForward) (bool, []byte) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(asked.Port))))
	if err != nil {
		return false, nil
	}
	var payload []byte
	if asked.Port == 0 {
		asked.Port = uint32(listener.Addr().(*net.TCPAddr).Port)
		payload = ssh.Marshal(struct{ Port uint32 }{asked.Port})
	}
	f.accept(asked.key(), listener, "forwarded-tcpip", func(peer net.Conn) []byte {
		from := peer.RemoteAddr().(*net.TCPAddr)
		return ssh.Marshal(struct {
			Host       string
			Port       uint32
			OriginHost string
			OriginPort uint32
		}{asked.Host, asked.Port, from.IP.String(), uint32(from.Port)})
	})
	return true, payload
}

func (f *forwards) listenSocket(path string) bool {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return false
	}
	_ = os.Chmod(path, 0o600)
	f.accept(path, listener, "forwarded-streamlocal@openssh.com", func(net.Conn) []byte {
		return ssh.Marshal(struct{ Path, Reserved string }{path, ""})
	})
	return true
}

// agent is the path of a socket behind which the client's ssh agent answers.
func (f *forwards) agent() (string, error) {
	f.lock.Lock()
	path := f.agentPath
	f.lock.Unlock()
	if path != "" {
		return path, nil
	}
	folder, err := os.MkdirTemp("", "labssh-")
	if err != nil {
		return "", err
	}
	path = filepath.Join(folder, "agent")
	listener, err := net.Listen("unix", path)
	if err != nil {
		_ = os.RemoveAll(folder)
		return "", err
	}
	f.lock.Lock()
	f.agentPath, f.folder = path, folder
	f.lock.Unlock()
	f.accept(path, listener, "auth-agent@openssh.com", func(net.Conn) []byte { return nil })
	return path, nil
}

// accept hands every connection of a listener to the client.
func (f *forwards) accept(key string, listener net.Listener, kind string, payload func(net.Conn) []byte) {
	f.lock.Lock()
	if old := f.listeners[key]; old != nil {
		_ = old.Close()
	}
	f.listeners[key] = listener
	f.lock.Unlock()
	go func() {
		for {
			peer, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				channel, requests, err := f.ssh.OpenChannel(kind, payload(peer))
				if err != nil {
					_ = peer.Close()
					return
				}
				join(channel, requests, peer)
			}()
		}
	}()
}

func (f *forwards) cancel(key string) bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	listener := f.listeners[key]
	delete(f.listeners, key)
	return listener != nil && listener.Close() == nil
}

func (f *forwards) closeAll() {
	f.lock.Lock()
	defer f.lock.Unlock()
	for key, listener := range f.listeners {
		_ = listener.Close()
		delete(f.listeners, key)
	}
	if f.folder != "" {
		_ = os.RemoveAll(f.folder)
	}
}
