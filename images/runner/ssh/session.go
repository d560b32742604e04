package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// How long what a terminal still holds may take to be read after its shell has ended: a process that the
// shell left in the background keeps the terminal open for ever.
const lastWords = 300 * time.Millisecond

var signalNumbers = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// session is one session channel: at most one program, with a terminal or with pipes.
type session struct {
	connection *connection
	channel    ssh.Channel
	env        []string

	lock     sync.Mutex // what follows changes while the program runs
	terminal bool
	size     pty.Winsize
	screen   *os.File // the terminal's master side, once it is open
	group    int      // the program's process group, once it runs
	started  bool
}

func (c *connection) session(asked ssh.NewChannel) {
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}
	s := &session{connection: c, channel: channel, env: environment()}
	for request := range requests {
		ok := s.request(request)
		if request.WantReply {
			_ = request.Reply(ok, nil)
		}
		// The answer must come first: a client takes output before it for a fault.
		if ok && s.starts(request.Type) {
			go s.run(request)
		}
	}
	s.hangUp()
}

func (s *session) starts(kind string) bool {
	return kind == "shell" || kind == "exec" || kind == "subsystem"
}

// request handles one request; those that start a program are only checked here.
func (s *session) request(request *ssh.Request) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	switch request.Type {
	case "pty-req":
		var asked struct {
			Term                         string
			Columns, Rows, Width, Height uint32
			Modes                        string
		}
		if ssh.Unmarshal(request.Payload, &asked) != nil || s.started {
			return false
		}
		s.terminal, s.size = true, winsize(asked.Columns, asked.Rows, asked.Width, asked.Height)
		s.set("TERM", asked.Term)
		return true
	case "window-change":
		var asked struct{ Columns, Rows, Width, Height uint32 }
		if ssh.Unmarshal(request.Payload, &asked) != nil {
			return false
		}
		s.size = winsize(asked.Columns, asked.Rows, asked.Width, asked.Height)
		return s.screen == nil || pty.Setsize(s.screen, &s.size) == nil
	case "env":
		var asked struct{ Name, Value string }
		if ssh.Unmarshal(request.Payload, &asked) != nil || s.started {
			return false
		}
		// Which locales there are is the image's affair; Debian's ssh sends those of the login node.
		if asked.Name == "LANG" || strings.HasPrefix(asked.Name, "LC_") {
			return false
		}
		s.set(asked.Name, asked.Value)
		return true
	case "auth-agent-req@openssh.com":
		path, err := s.connection.forwards.agent()
		if err == nil {
			s.set("SSH_AUTH_SOCK", path)
		}
		return err == nil
	case "signal":
		var asked struct{ Name string }
		number, known := syscall.Signal(0), false
		if ssh.Unmarshal(request.Payload, &asked) == nil {
			number, known = signalNumbers[asked.Name]
		}
		return known && s.group > 0 && syscall.Kill(-s.group, number) == nil
	case "subsystem":
		if first(request.Payload) != "sftp" {
			return false
		}
		fallthrough
	case "shell", "exec":
		if s.started {
			return false
		}
		s.started = true
		return true
	}
	return false
}

func (s *session) run(request *ssh.Request) {
	switch request.Type {
	case "subsystem":
		s.finish(s.sftp())
	case "shell":
		s.program(nil)
	default:
		s.program([]string{"-c", first(request.Payload)})
	}
}

// openEnd is a channel that only we close: the exit status must still go through it, else scp takes a good
// copy for a failure.
type openEnd struct{ ssh.Channel }

func (openEnd) Close() error { return nil }

func (s *session) sftp() int {
	// Relative names begin where a shell would.
	here, _ := os.Getwd()
	server, err := sftp.NewServer(openEnd{s.channel}, sftp.WithServerWorkingDirectory(here), sftp.WithAllocator())
	if err == nil {
		err = server.Serve()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 1
	}
	return 0
}

// program runs the image's shell with some arguments. Not as a login shell: /etc/profile would replace
// the PATH that the image sets.
func (s *session) program(arguments []string) {
	shell, err := findShell()
	if err != nil {
		fmt.Fprintf(s.channel.Stderr(), "labssh: %v\r\n", err)
		s.finish(127)
		return
	}
	command := exec.Command(shell, arguments...)
	s.lock.Lock()
	s.set("SHELL", shell)
	command.Env = s.env
	terminal := s.terminal
	s.lock.Unlock()
	if terminal {
		err = s.withTerminal(command)
	} else {
		err = s.withPipes(command)
	}
	if err != nil {
		fmt.Fprintf(s.channel.Stderr(), "labssh: %s cannot start: %v\r\n", shell, err)
		s.finish(126)
	}
}

func (s *session) withTerminal(command *exec.Cmd) error {
	screen, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("no terminal: %w", err)
	}
	defer screen.Close()
	setUTF8(tty)
	command.Env = append(command.Env, "SSH_TTY="+tty.Name())
	command.Stdin, command.Stdout, command.Stderr = tty, tty, tty
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}

	s.lock.Lock()
	_ = pty.Setsize(screen, &s.size)
	s.screen = screen
	s.lock.Unlock()
	wait, err := s.start(command)
	_ = tty.Close()
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(screen, s.channel) }()
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(s.channel, screen) // ends with EIO when nobody has the terminal open any more
		close(copied)
	}()
	state := wait()
	select {
	case <-copied:
	case <-time.After(lastWords):
		_ = screen.SetReadDeadline(time.Now())
		<-copied
	}
	s.lock.Lock()
	s.screen = nil
	s.lock.Unlock()
	s.finishState(state)
	return nil
}

func (s *session) withPipes(command *exec.Cmd) error {
	// Not the pipes of os/exec: its Wait would close them while we still read.
	var reads, writes [3]*os.File
	for i := range reads {
		var err error
		if reads[i], writes[i], err = os.Pipe(); err != nil {
			return err
		}
		defer reads[i].Close()
		defer writes[i].Close()
	}
	command.Stdin, command.Stdout, command.Stderr = reads[0], writes[1], writes[2]
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	wait, err := s.start(command)
	if err != nil {
		return err
	}
	_, _, _ = reads[0].Close(), writes[1].Close(), writes[2].Close()
	go func() {
		_, _ = io.Copy(writes[0], s.channel)
		_ = writes[0].Close()
	}()
	var outputs sync.WaitGroup
	outputs.Add(2)
	go func() { defer outputs.Done(); _, _ = io.Copy(s.channel, reads[1]) }()
	go func() { defer outputs.Done(); _, _ = io.Copy(s.channel.Stderr(), reads[2]) }()
	state := wait()
	// As with every ssh server: what still holds the output (a `tee` behind the command) may finish.
	outputs.Wait()
	s.finishState(state)
	return nil
}

func (s *session) start(command *exec.Cmd) (func() *os.ProcessState, error) {
	wait, err := s.connection.children.start(command)
	if err == nil {
		s.lock.Lock()
		s.group = command.Process.Pid
		s.lock.Unlock()
	}
	return wait, err
}

// finishState tells how the program ended and closes the channel.
func (s *session) finishState(state *os.ProcessState) {
	status, known := state.Sys().(syscall.WaitStatus)
	if !known || !status.Signaled() {
		s.finish(state.ExitCode())
		return
	}
	for name, number := range signalNumbers {
		if number == status.Signal() {
			_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Name       string
				Core       bool
				Text, Lang string
			}{name, status.CoreDump(), status.Signal().String(), ""}))
			s.close()
			return
		}
	}
	s.finish(128 + int(status.Signal()))
}

func (s *session) finish(status int) {
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	s.close()
}

func (s *session) close() {
	s.lock.Lock()
	s.group = 0
	s.lock.Unlock()
	_ = s.channel.CloseWrite()
	_ = s.channel.Close()
}

// hangUp tells the program that its user has gone; children.endAll ends what does not listen.
func (s *session) hangUp() {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.group > 0 {
		_ = syscall.Kill(-s.group, syscall.SIGHUP)
		_ = syscall.Kill(-s.group, syscall.SIGCONT)
		s.connection.children.endSoon(s.group)
	}
}

// set gives the program a variable; the caller holds the lock.
func (s *session) set(name, value string) {
	s.env = append(s.env, name+"="+value) // of two the last one counts
}

// environment is the container's, which the portal and the image have made, and a locale that every image has.
func environment() []string {
	env := os.Environ()
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if os.Getenv(name) != "" {
			return env
		}
	}
	return append(env, "LANG=C.UTF-8")
}

func findShell() (string, error) {
	for _, name := range []string{"bash", "sh", "/bin/bash", "/bin/sh"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("the image of this run has neither bash nor sh: only sftp and forwarding work")
}

func winsize(columns, rows, width, height uint32) pty.Winsize {
	return pty.Winsize{Cols: uint16(columns), Rows: uint16(rows), X: uint16(width), Y: uint16(height)}
}

// first is the first text of a request's payload; empty if there is none.
func first(payload []byte) string {
	var text struct {
		Value string
		Rest  []byte `ssh:"rest"`
	}
	_ = ssh.Unmarshal(payload, &text)
	return text.Value
}
