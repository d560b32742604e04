package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// The pod has 30 s to end (terminationGracePeriodSeconds); what is left of it writes the result.
	grace = 25 * time.Second
	// How long processes that outlive the command (a `tee` behind it) may take to print their last
	// words, and how long reading what the pipe still holds may take after they were killed.
	lastWords = 500 * time.Millisecond
	lastRead  = 5 * time.Second

	// Who ended the command: the cluster, which ends the pod. terminatedExit is what a shell says of SIGTERM.
	byTermination  = "termination"
	terminatedExit = 128 + int(syscall.SIGTERM)

	timeFormat          = "2006-01-02T15:04:05.000Z07:00"
	prSetChildSubreaper = 36
)

// forwarded are the signals that the command gets when labrun does. SIGURG is the Go runtime's own.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH,
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGHUP: "SIGHUP", syscall.SIGINT: "SIGINT", syscall.SIGQUIT: "SIGQUIT", syscall.SIGILL: "SIGILL",
	syscall.SIGTRAP: "SIGTRAP", syscall.SIGABRT: "SIGABRT", syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE",
	syscall.SIGKILL: "SIGKILL", syscall.SIGUSR1: "SIGUSR1", syscall.SIGSEGV: "SIGSEGV", syscall.SIGUSR2: "SIGUSR2",
	syscall.SIGPIPE: "SIGPIPE", syscall.SIGALRM: "SIGALRM", syscall.SIGTERM: "SIGTERM", syscall.SIGXCPU: "SIGXCPU",
	syscall.SIGXFSZ: "SIGXFSZ", syscall.SIGSYS: "SIGSYS",
}

// result is result.json, or rank-<n>.json of the other pods of a run on several nodes.
type result struct {
	Attempt  int     `json:"attempt"`
	ExitCode int     `json:"exit_code"`
	Signal   *string `json:"signal"`
	// EndedBy is time_limit if the command was ended, or warned and then ended, at the run's time limit, and
	// termination if the pod was told to end (drained, preempted, cancelled) before that. ExitCode is the command's.
	EndedBy    string  `json:"ended_by,omitempty"`
	StartedAt  string  `json:"started_at"`
	FinishedAt string  `json:"finished_at"`
	Seconds    float64 `json:"seconds"`
	// LogError says why stdout.log is not complete; absent when it is.
	LogError string `json:"log_error,omitempty"`
}

func execMain(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	// Notify, not Ignore: what is ignored would stay ignored in the command.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded...)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	// As PID 1 orphans come to us anyway; elsewhere (another init before us, tests) by request.
	_, _, _ = syscall.Syscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0)

	where := place()
	directory := where.directory
	out := newTee(where)
	calls, known := ownCalls(toolsPath())
	if !known {
		out.warn("MLflow does not answer now: what this run gives is kept, and delivered when it does")
	}
	watch := observe(where, args)
	started := time.Now()
	status := 0
	var ended end
	pid, output, err := start(args, environment(directory, calls))
	if err != nil {
		status = startFailure(out, args[0], err)
	} else {
		copied := make(chan struct{})
		go func() { out.copyFrom(output); close(copied) }()
		ended = supervise(pid, out, happenings{signals, children, limitOf(), superseded(where)})
		out.finish(output, copied, func() { killLeft(pid) })
		status = exitCode(ended.status)
	}
	finished := time.Now()
	watch.stop()
	out.close()
	if ended.by == bySuccessor {
		// The folder is the next attempt's now.
		return supersededExit
	}
	record := result{
		Attempt:    where.attempt,
		ExitCode:   status,
		EndedBy:    ended.by,
		StartedAt:  started.UTC().Format(timeFormat),
		FinishedAt: finished.UTC().Format(timeFormat),
		Seconds:    finished.Sub(started).Round(time.Millisecond).Seconds(),
		LogError:   out.problem,
	}
	if pid > 0 && ended.status.Signaled() {
		name := signalName(ended.status.Signal())
		record.Signal = &name
	}
	if directory != "" {
		if err := writeJSON(where.result(where.rank), record, true); err != nil {
			out.warn(fmt.Sprintf("%s is not written: %v", where.result(where.rank), explain(err)))
		}
		if where.allEnded() {
			makeReadOnly(directory)
		}
	}
	if ended.by != "" {
		say(fmt.Sprintf(`{"ended_by": %q}`, ended.by))
	}
	if ended.by == byTermination && status == 0 {
		// It saved what it had, but it did not finish: a pod that ends with 0 makes its Job complete.
		return terminatedExit
	}
	return status
}

// environment completes what the portal gave; it never replaces a value.
func environment(directory string, more map[string]string) []string {
	env := os.Environ()
	add := func(name, value string) {
		if _, found := os.LookupEnv(name); !found && value != "" {
			env = append(env, name+"="+value)
		}
	}
	if directory != "" {
		add("LABCLUSTER_ARTIFACTS_DIR", filepath.Join(directory, "artifacts"))
	}
	for name, value := range more {
		add(name, value)
	}
	// Python fills 8 KiB before it writes to a pipe: nobody could follow a training's log.
	add("PYTHONUNBUFFERED", "1")
	return env
}

// start runs the command in a process group of its own; both its output streams are one pipe, so that
// lines keep their order. syscall.ForkExec, not os/exec: only supervise may wait for children.
func start(args, env []string) (int, *os.File, error) {
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, nil, err
	}
	input, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer input.Close()
	// Not os.Pipe: its ends do not block, and a command must not find its standard output like that.
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return 0, nil, err
	}
	defer syscall.Close(ends[1])
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{input.Fd(), uintptr(ends[1]), uintptr(ends[1])},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err == nil {
		// Our own end must not block, so that a read can have a deadline.
		err = syscall.SetNonblock(ends[0], true)
	}
	if err != nil {
		_ = syscall.Close(ends[0])
		return 0, nil, err
	}
	return pid, os.NewFile(uintptr(ends[0]), "output"), nil
}

// killLeft ends what the command left behind: nothing may write into a finished run.
func killLeft(group int) {
	_ = syscall.Kill(-group, syscall.SIGKILL)
	if os.Getpid() == 1 {
		_ = syscall.Kill(-1, syscall.SIGKILL)
	}
}

// startFailure says why nothing was started and gives the shell's exit code for it.
func startFailure(out *tee, name string, err error) int {
	missing := errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && strings.Contains(name, "/"):
		if _, statErr := os.Stat(name); statErr == nil {
			out.warn(fmt.Sprintf("%s cannot start: the interpreter in its first line is not in the image", name))
		} else {
			out.warn(fmt.Sprintf("%s: no such file in the pod; only /lab and the image are there", name))
		}
	case missing:
		out.warn(fmt.Sprintf("%s: command not found in the image; choose another with --image", name))
	case errors.Is(err, syscall.ENOEXEC):
		out.warn(fmt.Sprintf("%s cannot start: not a program for this machine, and no #! in its first line", name))
		return 126
	case errors.Is(err, fs.ErrPermission):
		out.warn(fmt.Sprintf("%s cannot start: permission denied; chmod +x makes a file executable", name))
		return 126
	default:
		out.warn(fmt.Sprintf("%s cannot start: %v", name, explain(err)))
		return 126
	}
	return 127
}

// end is how the command ended, and by whom if not by itself.
type end struct {
	status syscall.WaitStatus
	by     string
}

// happenings are what supervise waits for besides the command's end.
type happenings struct {
	signals, children <-chan os.Signal
	limit             limit
	// Closed when a later attempt of this run has taken its folder over.
	superseded <-chan struct{}
}

// supervise forwards signals to the command, keeps its time limit, and reaps every child until the command
// itself has ended.
func supervise(pid int, out *tee, on happenings) end {
	var kill <-chan time.Time
	by := ""
	for {
		for {
			var status syscall.WaitStatus
			found, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if found == pid && (status.Exited() || status.Signaled()) {
				return end{status, by}
			}
			if err != nil || found <= 0 {
				break
			}
		}
		select {
		case <-on.children:
		case <-kill:
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		case <-on.limit.warning:
			if by == "" {
				by = byTimeLimit
			}
			out.warn(on.limit.message)
			_ = syscall.Kill(-pid, syscall.SIGTERM)
		case <-on.limit.reached:
			if by == "" {
				by = byTimeLimit
			}
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		case <-on.superseded:
			on.superseded = nil
			by = bySuccessor
			// At once: whatever it writes now, it writes into the later attempt's files.
			out.abandon()
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		case received := <-on.signals:
			// The whole group: a shell that waits for its training does not pass signals on.
			_ = syscall.Kill(-pid, received.(syscall.Signal))
			if received == syscall.SIGTERM && kill == nil {
				if by == "" {
					by = byTermination
				}
				kill = time.After(grace)
			}
		}
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func signalName(number syscall.Signal) string {
	if name, found := signalNames[number]; found {
		return name
	}
	return fmt.Sprintf("SIG%d", int(number))
}

// makeReadOnly ends the run's record. Links are left alone: what they share may not be the run's own.
func makeReadOnly(directory string) {
	var folders []string
	_ = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint: a folder that cannot be read is not ours to change
		case entry.IsDir():
			folders = append(folders, path)
		case entry.Type().IsRegular():
			info, err := entry.Info()
			if err == nil && info.Sys().(*syscall.Stat_t).Nlink == 1 {
				_ = os.Chmod(path, info.Mode()&^0o222)
			}
		}
		return nil
	})
	for last := len(folders) - 1; last >= 0; last-- {
		if info, err := os.Stat(folders[last]); err == nil {
			_ = os.Chmod(folders[last], info.Mode()&^0o222)
		}
	}
}
