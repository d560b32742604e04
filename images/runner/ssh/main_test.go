package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// The tests speak to labssh as the kubelet and an ssh client do: a process with two pipes. The test binary
// plays labssh when this variable is set.
const (
	playLabssh = "LABSSH_TEST_PLAY"
	hurry      = "LABSSH_TEST_HURRY" // with short times
)

func TestMain(m *testing.M) {
	if os.Getenv(playLabssh) != "" {
		os.Unsetenv(playLabssh)
		if os.Getenv(hurry) != "" {
			handshakeSeconds, keepaliveEvery, keepaliveReply = time.Second, 100*time.Millisecond, 300*time.Millisecond
		}
		main()
	}
	os.Exit(m.Run())
}

// server is a labssh process and the client that talks to it.
type server struct {
	*ssh.Client
	process *exec.Cmd
	folder  string
}

func connect(t *testing.T, env ...string) *server {
	t.Helper()
	return connectOver(t, func(pipes net.Conn) net.Conn { return pipes }, env...)
}

func connectOver(t *testing.T, wrap func(net.Conn) net.Conn, env ...string) *server {
	t.Helper()
	folder := t.TempDir()
	command := exec.Command("/proc/self/exe")
	command.Dir = folder
	command.Env = append(os.Environ(), append(env, playLabssh+"=1", "HOME="+folder)...)
	command.Stderr = os.Stderr
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdin, command.Stdout = theirIn, theirOut
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	config := &ssh.ClientConfig{User: "anybody", HostKeyCallback: ssh.InsecureIgnoreHostKey()}
	pipes := &stdio{in: out, out: in}
	connection, channels, requests, err := ssh.NewClientConn(wrap(pipes), "labssh", config)
	if err != nil {
		t.Fatal(err)
	}
	here := &server{ssh.NewClient(connection, channels, requests), command, folder}
	t.Cleanup(func() {
		_ = here.Close()
		_ = command.Wait()
	})
	return here
}

func (s *server) session(t *testing.T) *ssh.Session {
	t.Helper()
	session, err := s.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func status(err error) string {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return "0"
	case errors.As(err, &exit) && exit.Signal() != "":
		return exit.Signal()
	case errors.As(err, &exit):
		return strconv.Itoa(exit.ExitStatus())
	}
	return err.Error()
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestCommandsHaveTheRunsPlaceEnvironmentAndEnd(t *testing.T) {
	here := connect(t, "LABCLUSTER_RUN_ID=vision-7")
	session := here.session(t)
	var out, err bytes.Buffer
	session.Stdout, session.Stderr = &out, &err
	_ = session.Setenv("COLOUR", "blue")
	ended := session.Run(`echo "$PWD $LABCLUSTER_RUN_ID $COLOUR"; echo oops >&2; exit 7`)
	if got, want := out.String(), here.folder+" vision-7 blue\n"; got != want || err.String() != "oops\n" || status(ended) != "7" {
		t.Errorf("out %q err %q status %s", got, err.String(), status(ended))
	}
	for command, want := range map[string]string{
		"true": "0", "kill -TERM $$": "TERM", "no-such-program-here 2>&-": "127", "kill -BUS $$": "135",
	} {
		if got := status(here.session(t).Run(command)); got != want {
			t.Errorf("%s: %s instead of %s", command, got, want)
		}
	}
}

func TestBytesPassUnchangedBothWays(t *testing.T) {
	here := connect(t)
	session := here.session(t)
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * i >> 8)
	}
	sent, got := sha256.New(), sha256.New()
	var source []io.Reader
	for range 20 {
		source = append(source, bytes.NewReader(block))
	}
	session.Stdin = io.TeeReader(io.MultiReader(source...), sent)
	session.Stdout = got
	if err := session.Run("cat"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("cat gave back something else")
	}
}

func TestASlowReaderStopsTheWriter(t *testing.T) {
	here := connect(t)
	session := here.session(t)
	out, _ := session.StdoutPipe()
	file := filepath.Join(here.folder, "count")
	if err := session.Start("head -c 50000000 /dev/zero; date > " + file); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if _, err := os.Stat(file); err == nil {
		t.Error("50 MB went somewhere although nobody read them")
	}
	if got, _ := io.Copy(io.Discard, out); got != 50000000 {
		t.Errorf("%d bytes came", got)
	}
}

func TestATerminalHasSizeTypeAndFollowsResizing(t *testing.T) {
	here := connect(t)
	session := here.session(t)
	if err := session.RequestPty("xterm-256color", 31, 97, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	in, _ := session.StdinPipe()
	var out lockedBuffer
	session.Stdout = &out
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, `echo "at $(stty size) $TERM $(test -t 0 && echo tty) $SSH_TTY"`)
	eventually(t, "size and type", func() bool { return out.has("at 31 97 xterm-256color tty /dev/pts/") })
	if err := session.WindowChange(40, 120); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, `echo "now $(stty size)"`)
	eventually(t, "the new size", func() bool { return out.has("now 40 120") })
	fmt.Fprintln(in, "stty -a | tr -d '\\n'; echo")
	eventually(t, "editing of whole characters", func() bool { return out.has(" iutf8") })
	fmt.Fprintln(in, "exit 5")
	if got := status(session.Wait()); got != "5" {
		t.Errorf("status %s", got)
	}
}

func TestOutputBeforeTheEndOfATerminalArrives(t *testing.T) {
	here := connect(t)
	for range 20 {
		session := here.session(t)
		_ = session.RequestPty("xterm", 24, 80, ssh.TerminalModes{})
		out, err := session.Output("seq 1 3000; sleep 60 & exit 0")
		if err != nil || !strings.HasSuffix(string(out), "3000\r\n") {
			t.Fatalf("%v: ends with %q", err, out[max(0, len(out)-30):])
		}
	}
}

func TestNothingIsLeftWhenTheConnectionEnds(t *testing.T) {
	here := connect(t)
	var left []int
	for _, command := range []string{
		"echo $$; exec sleep 600",
		"trap '' HUP; echo $$; sleep 600; sleep 600",
		"setsid sh -c 'echo $$; exec sleep 600' & wait",
		"(setsid sh -c 'trap \"\" HUP TERM; echo $$; sleep 600; sleep 600' &); sleep 600",
	} {
		session := here.session(t)
		out, _ := session.StdoutPipe()
		if err := session.Start(command); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(out, &pid); err != nil || !alive(pid) {
			t.Fatalf("%s: %v", command, err)
		}
		left = append(left, pid)
	}
	_ = here.Close()
	if err := here.process.Wait(); err != nil {
		t.Errorf("labssh: %v", err)
	}
	for _, pid := range left {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// frozen is a connection whose near end can stop reading: a machine that went to sleep, a cable that was cut.
type frozen struct {
	net.Conn
	awake sync.Mutex
}

func (f *frozen) Read(block []byte) (int, error) {
	f.awake.Lock()
	defer f.awake.Unlock()
	return f.Conn.Read(block)
}

func TestAClientThatVanishedIsLeft(t *testing.T) {
	var cut *frozen
	here := connectOver(t, func(pipes net.Conn) net.Conn {
		cut = &frozen{Conn: pipes}
		return cut
	}, hurry+"=1")
	session := here.session(t)
	out, _ := session.StdoutPipe()
	_ = session.Start("echo $$; exec sleep 600")
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // it answers, so it may stay
	if !alive(pid) {
		t.Fatal("a client that answers was left")
	}
	cut.awake.Lock()
	defer cut.awake.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- here.process.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("labssh waits for ever")
	}
	if alive(pid) {
		t.Error("its program is still there")
	}
}

func TestAClientThatSaysNothingIsLeft(t *testing.T) {
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), playLabssh+"=1", hurry+"=1")
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	begun := time.Now()
	_ = command.Run()
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAClosedSessionEndsItsProgramAlone(t *testing.T) {
	here := connect(t)
	other := here.session(t)
	otherOut, _ := other.StdoutPipe()
	_ = other.Start("echo on; exec cat")
	session := here.session(t)
	out, _ := session.StdoutPipe()
	if err := session.Start("trap '' HUP; echo $$; sleep 600; sleep 600"); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, _ = fmt.Fscan(out, &pid)
	_ = session.Close()
	eventually(t, "the end of the program", func() bool { return !alive(pid) })
	var word string
	if _, err := fmt.Fscan(otherOut, &word); err != nil || word != "on" {
		t.Errorf("the other session: %q %v", word, err)
	}
}

func TestSignalsReachTheProgram(t *testing.T) {
	here := connect(t)
	session := here.session(t)
	out, _ := session.StdoutPipe()
	_ = session.Start("trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done")
	var word string
	_, _ = fmt.Fscan(out, &word)
	if err := session.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := status(session.Wait()); got != "42" {
		t.Errorf("status %s", got)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	here := connect(t)
	for range 5 {
		if err := here.session(t).Run("(setsid sleep 0.01 &)"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no zombies", func() bool {
		for _, process := range listProcesses() {
			if process.parent == here.process.Process.Pid && process.zombie {
				return false
			}
		}
		return true
	})
}

func TestFilesGoThroughSftp(t *testing.T) {
	here := connect(t)
	client, err := sftp.NewClient(here.Client)
	if err != nil {
		t.Fatal(err)
	}
	if place, err := client.Getwd(); err != nil || place != here.folder {
		t.Errorf("begins in %q: %v", place, err)
	}
	file, err := client.Create("weights.bin")
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("weights\x00\xff"), 300000)
	if _, err := io.Copy(file, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	if got, err := os.ReadFile(filepath.Join(here.folder, "weights.bin")); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes arrived: %v", len(got), err)
	}
	if _, err := client.Stat("absent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func TestTheEndOfSftpIsAGoodOne(t *testing.T) {
	here := connect(t)
	channel, requests, err := here.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	_ = channel.CloseWrite()
	for request := range requests {
		if request.Type == "exit-status" && bytes.Equal(request.Payload, []byte{0, 0, 0, 0}) {
			return
		}
	}
	t.Error("no exit status 0: scp would call its copy failed")
}

func TestPortsAndSocketsOfThePodAreReached(t *testing.T) {
	here := connect(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("answer ", 10000))
	}))
	defer web.Close()
	for network, address := range map[string]string{"tcp": web.Listener.Addr().String(), "unix": echoSocket(t)} {
		connection, err := here.Dial(network, address)
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		// The end of our half must reach the other side, and its answer still us.
		fmt.Fprint(connection, "GET / HTTP/1.0\r\n\r\n")
		_ = connection.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(connection); err != nil || len(got) < 18 {
			t.Errorf("%s: %d bytes, %v", network, len(got), err)
		}
	}
	var refused *ssh.OpenChannelError
	if _, err := here.Dial("tcp", "127.0.0.1:1"); !errors.As(err, &refused) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: %v", err)
	}
}

func echoSocket(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "echo")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			text, _ := io.ReadAll(connection)
			_, _ = connection.Write(text)
			_ = connection.Close()
		}
	}()
	return path
}

func TestThePodReachesWhatTheClientOffers(t *testing.T) {
	here := connect(t)
	socket := filepath.Join(here.folder, "back")
	tcp, err := here.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	unix, err := here.ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	port := tcp.Addr().(*net.TCPAddr).Port
	for _, offered := range []struct {
		listener         net.Listener
		network, address string
	}{{tcp, "tcp", fmt.Sprintf("127.0.0.1:%d", port)}, {unix, "unix", socket}} {
		go func() {
			peer, err := offered.listener.Accept()
			if err == nil {
				fmt.Fprint(peer, "hello")
				_ = peer.Close()
			}
		}()
		connection, err := net.Dial(offered.network, offered.address)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(connection); string(got) != "hello" {
			t.Errorf("%s: %q", offered.network, got)
		}
		_ = offered.listener.Close()
		eventually(t, "the end of "+offered.network, func() bool {
			connection, err := net.Dial(offered.network, offered.address)
			if err == nil {
				_ = connection.Close()
			}
			return err != nil
		})
	}
	if outside := ownAddress(); outside != "" {
		if connection, err := net.Dial("tcp", net.JoinHostPort(outside, strconv.Itoa(port))); err == nil {
			_ = connection.Close()
			t.Error("others than the pod reach the client")
		}
	}
}

func ownAddress() string {
	addresses, _ := net.InterfaceAddrs()
	for _, address := range addresses {
		if ip, ok := address.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			return ip.IP.String()
		}
	}
	return ""
}

func TestTheAgentIsReached(t *testing.T) {
	here := connect(t)
	if err := agent.ForwardToAgent(here.Client, agent.NewKeyring()); err != nil {
		t.Fatal(err)
	}
	session := here.session(t)
	if err := agent.RequestAgentForwarding(session); err != nil {
		t.Fatal(err)
	}
	out, err := session.Output("echo $SSH_AUTH_SOCK")
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(string(out))
	connection, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := agent.NewClient(connection).List(); err != nil || len(keys) != 0 {
		t.Errorf("%v %v", keys, err)
	}
	_ = here.Close()
	_ = here.process.Wait()
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was left: %v", path, err)
	}
}

// lockedBuffer is written by one goroutine while another reads it.
type lockedBuffer struct {
	lock sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(block []byte) (int, error) {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.text.Write(block)
}

func (b *lockedBuffer) has(text string) bool {
	b.lock.Lock()
	defer b.lock.Unlock()
	return strings.Contains(b.text.String(), text)
}
