package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	// Who connects but says nothing is let go.
	handshakeSeconds = 60 * time.Second
	// A client that vanished without a word is found after about a minute and a half.
	keepaliveEvery = 30 * time.Second
	keepaliveReply = 60 * time.Second
)

// connection is one ssh connection: all that its channels share.
type connection struct {
	ssh      *ssh.ServerConn
	children *children
	forwards *forwards
}

// serve speaks ssh on a connection until it ends; nil is an end that either side wanted.
func serve(transport net.Conn, children *children) error {
	config, err := serverConfig()
	if err != nil {
		return err
	}
	late := time.AfterFunc(handshakeSeconds, func() { _ = transport.Close() })
	server, channels, requests, err := ssh.NewServerConn(transport, config)
	late.Stop()
	if errors.Is(err, io.EOF) {
		return nil // the client went away before it asked for anything
	}
	if err != nil {
		return fmt.Errorf("the ssh client and this server do not agree: %w", err)
	}
	here := &connection{server, children, newForwards(server)}
	defer here.forwards.closeAll()
	go here.keepAlive()
	go here.answerRequests(requests)
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			go here.session(channel)
		case "direct-tcpip":
			go directTCP(channel)
		case "direct-streamlocal@openssh.com":
			go directSocket(channel)
		default:
			_ = channel.Reject(ssh.UnknownChannelType, "labssh has no channels of type "+channel.ChannelType())
		}
	}
	return nil
}

func serverConfig() (*ssh.ServerConfig, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	// No authentication: see the head of main.go.
	config := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: "SSH-2.0-labssh"}
	config.AddHostKey(key)
	return config, nil
}

// keepAlive ends a connection whose other end does not answer.
func (c *connection) keepAlive() {
	for {
		time.Sleep(keepaliveEvery)
		dead := time.AfterFunc(keepaliveReply, func() { _ = c.ssh.Close() })
		// A refusal is an answer too; that is what OpenSSH gives.
		_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
		if err != nil {
			return
		}
	}
}

func (c *connection) answerRequests(requests <-chan *ssh.Request) {
	for request := range requests {
		answered, payload := c.forwards.request(request)
		if request.WantReply {
			_ = request.Reply(answered, payload)
		}
	}
}
