package main

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// What a program may take to end after SIGHUP: a shell writes its history.
	hangUpGrace = 2 * time.Second
	killSeconds = 5 * time.Second
)

// children are the processes that came from this connection's sessions, however they detached themselves.
type children struct {
	starts chan func()
	lock   sync.Mutex
	own    map[int]bool // started here and waited for by whoever started them; the others are orphans
}

func newChildren() *children {
	// Orphans of our sessions become our children, and not those of the container's first process.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	c := &children{starts: make(chan func()), own: map[int]bool{}}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGCHLD)
	go func() {
		for range changed {
			c.reapOrphans()
		}
	}()
	return c
}

// startLoop never returns; it is the main thread's work.
func (c *children) startLoop() {
	for start := range c.starts {
		start()
	}
}

// start runs a command in the main thread; the answer waits for its end.
func (c *children) start(command *exec.Cmd) (func() *os.ProcessState, error) {
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error, 1)
	c.starts <- func() {
		c.lock.Lock()
		defer c.lock.Unlock()
		err := command.Start()
		if err == nil {
			c.own[command.Process.Pid] = true
		}
		result <- err
	}
	if err := <-result; err != nil {
		return nil, err
	}
	return func() *os.ProcessState {
		_ = command.Wait()
		c.lock.Lock()
		delete(c.own, command.Process.Pid)
		c.lock.Unlock()
		return command.ProcessState
	}, nil
}

// reapOrphans takes away what ended and has nobody else who waits for it.
func (c *children) reapOrphans() {
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, process := range listProcesses() {
		if process.parent == os.Getpid() && process.zombie && !c.own[process.id] {
			_, _ = syscall.Wait4(process.id, nil, syscall.WNOHANG, nil)
		}
	}
}

// endSoon kills a process group that was told to end and did not.
func (c *children) endSoon(group int) {
	time.AfterFunc(hangUpGrace, func() {
		c.lock.Lock()
		defer c.lock.Unlock()
		if c.own[group] { // else the number may belong to somebody else by now
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
	})
}

// endAll ends every process that came from here: first politely, then for good.
func (c *children) endAll() {
	polite := time.Now().Add(hangUpGrace)
	deadline := time.Now().Add(killSeconds)
	for _, process := range descendants() {
		_ = syscall.Kill(process.id, syscall.SIGHUP)
		_ = syscall.Kill(process.id, syscall.SIGCONT)
	}
	for time.Now().Before(deadline) {
		left := descendants()
		if len(left) == 0 {
			return
		}
		if time.Now().After(polite) {
			for _, process := range left {
				_ = syscall.Kill(process.id, syscall.SIGKILL)
			}
		}
		c.reapOrphans()
		time.Sleep(20 * time.Millisecond)
	}
}

type process struct {
	id, parent int
	zombie     bool
}

// descendants are the living processes below this one.
func descendants() []process {
	all := listProcesses()
	below := map[int]bool{os.Getpid(): true}
	var found []process
	for grown := true; grown; {
		grown = false
		for _, process := range all {
			if below[process.parent] && !below[process.id] {
				below[process.id], grown = true, true
				if !process.zombie {
					found = append(found, process)
				}
			}
		}
	}
	return found
}

func listProcesses() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, entry := range entries {
		id, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		// "pid (name) state parent …"; the name may hold anything, also brackets.
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(string(fields[1]))
		found = append(found, process{id, parent, string(fields[0]) == "Z"})
	}
	return found
}

// setUTF8 lets the terminal's line editing erase whole characters.
func setUTF8(tty *os.File) {
	modes, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err == nil {
		modes.Iflag |= unix.IUTF8
		_ = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, modes)
	}
}
