package main

import (
	"net"
	"os"
	"time"
)

// stdio is standard input and output as one connection. Deadlines do nothing: serve bounds the handshake
// by itself, and a dead peer is found by keepalives.
type stdio struct {
	in, out *os.File
}

func newStdio() net.Conn { return &stdio{os.Stdin, os.Stdout} }

type pipeAddress struct{}

func (pipeAddress) Network() string { return "pipe" }
func (pipeAddress) String() string  { return "stdio" }

func (s *stdio) Read(block []byte) (int, error)   { return s.in.Read(block) }
func (s *stdio) Write(block []byte) (int, error)  { return s.out.Write(block) }
func (s *stdio) LocalAddr() net.Addr              { return pipeAddress{} }
func (s *stdio) RemoteAddr() net.Addr             { return pipeAddress{} }
func (s *stdio) SetDeadline(time.Time) error      { return nil }
func (s *stdio) SetReadDeadline(time.Time) error  { return nil }
func (s *stdio) SetWriteDeadline(time.Time) error { return nil }

func (s *stdio) Close() error {
	err := s.out.Close()
	if inErr := s.in.Close(); err == nil {
		err = inErr
	}
	return err
}
