package main

import (
	"net"
	"os"
	"syscall"
	"time"
)

// stdio is standard input and output as one connection. Deadlines do nothing: serve bounds the handshake
// by itself, and a dead peer is found by keepalives.
type stdio struct {
	in, out *os.File
}

// newStdio takes over both descriptors. They must not block, else Close would not wake who waits in Read.
func newStdio() net.Conn {
	files := [2]*os.File{os.Stdin, os.Stdout}
	for descriptor, file := range files {
		if syscall.SetNonblock(descriptor, true) == nil {
			files[descriptor] = os.NewFile(uintptr(descriptor), file.Name())
		}
	}
	return &stdio{files[0], files[1]}
}

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
