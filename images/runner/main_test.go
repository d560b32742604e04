package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests speak to labrun as the kubelet does: a process with arguments, environment and signals.
// The test binary plays labrun when this variable is set.
const playLabrun = "LABRUN_TEST_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playLabrun) != "" {
		os.Unsetenv(playLabrun)
		main()
	}
	os.Exit(m.Run())
}

type outcome struct {
	code   int
	stdout string
	stderr string
}

func labrun(directory string, arguments ...string) *exec.Cmd {
	command := exec.Command("/proc/self/exe", arguments...)
	command.Env = append(os.Environ(), playLabrun+"=1", "LABCLUSTER_RUN_DIR="+directory)
	return command
}

func finish(t *testing.T, command *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{command.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// runDirectory is a folder that can be removed again after labrun has made it read-only.
func runDirectory(t *testing.T) string {
	t.Helper()
	directory := filepath.Join(t.TempDir(), "1_0_test")
	if err := os.Mkdir(directory, 0o770); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				_ = os.Chmod(path, 0o770)
			}
			return nil
		})
	})
	return directory
}

func readResult(t *testing.T, directory string) result {
	t.Helper()
	var value result
	text, err := os.ReadFile(filepath.Join(directory, "result.json"))
	if err == nil {
		err = json.Unmarshal(text, &value)
	}
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func readText(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func expectOneLine(t *testing.T, text, pattern string) {
	t.Helper()
	if matches := regexp.MustCompile(`(?m)^labrun: .*`+pattern+`.*$`).FindAllString(text, -1); len(matches) != 1 {
		t.Errorf("want one line with %q, got %q", pattern, text)
	}
	if count := strings.Count(text, "labrun: "); count != 1 {
		t.Errorf("want one line of labrun, got %d in %q", count, text)
	}
}

const runText = `{"id": "vision-7", "project": "vision", "user": "ada", "command": ["python3", "train.py"],
	"workdir": "%s", "env": {"SEED": "1"}, "gpus": 1}`

func prepared(t *testing.T, directory, to, text string) outcome {
	command := labrun(directory, "prepare", "--to", to)
	command.Env = append(command.Env, "LABCLUSTER_RUN="+text)
	return finish(t, command)
}

func TestPrepareRecordsTheRunAndLeavesLabrun(t *testing.T) {
	base, to := t.TempDir(), t.TempDir()
	directory := filepath.Join(base, "7_0_digits")
	text := strings.Replace(runText, "%s", base, 1)
	for range 2 { // a restarted node runs init containers again
		if got := prepared(t, directory, to, text); got.code != 0 || got.stdout+got.stderr != "" {
			t.Fatalf("prepare: %+v", got)
		}
	}
	for _, path := range []string{directory, filepath.Join(directory, "artifacts")} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != fs.ModeDir|fs.ModeSetgid|0o770 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	var run map[string]any
	if err := json.Unmarshal([]byte(readText(t, directory, "run.json")), &run); err != nil || run["gpus"] != 1.0 {
		t.Errorf("run.json does not keep the whole run: %v %v", run, err)
	}
	if got := readText(t, directory, "env.json"); got != "{\n  \"SEED\": \"1\"\n}\n" {
		t.Errorf("env.json: %s", got)
	}
	var args arguments
	if err := json.Unmarshal([]byte(readText(t, directory, "args.json")), &args); err != nil ||
		strings.Join(args.Command, " ") != "python3 train.py" || args.Workdir != base {
		t.Errorf("args.json: %+v %v", args, err)
	}
	copied := exec.Command(filepath.Join(to, "labrun"))
	copied.Env = append(os.Environ(), playLabrun+"=1")
	if got := finish(t, copied); got.code != 2 || !strings.Contains(got.stderr, "usage: labrun") {
		t.Errorf("the copy does not run: %+v", got)
	}
	left, _ := filepath.Glob(filepath.Join(directory, ".*"))
	if len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestPrepareIsQuick(t *testing.T) {
	base, to := t.TempDir(), t.TempDir()
	text := strings.Replace(runText, "%s", base, 1)
	best := time.Hour
	for try := range 5 {
		began := time.Now()
		prepared(t, filepath.Join(base, string(rune('a'+try))), to, text)
		best = min(best, time.Since(began))
	}
	if best > 50*time.Millisecond {
		t.Errorf("prepare took %v at best", best)
	}
}

func TestPrepareRefusesInOneLine(t *testing.T) {
	base, to := t.TempDir(), t.TempDir()
	text := strings.Replace(runText, "%s", base, 1)
	taken := filepath.Join(base, "taken")
	prepared(t, taken, to, strings.Replace(text, "vision-7", "vision-6", 1))
	for name, test := range map[string]struct{ directory, text, says string }{
		"no run":               {filepath.Join(base, "a"), "", "LABCLUSTER_RUN does not hold a run"},
		"relative directory":   {"a", text, "not an absolute path"},
		"another run's":        {taken, text, "belongs to run vision-6"},
		"no project directory": {filepath.Join(base, "no", "runs", "a"), text, "cannot make the run directory .*no such file"},
		"no working directory": {filepath.Join(base, "a"), strings.Replace(runText, "%s", base+"/gone", 1), "ada cannot enter .*gone"},
		"working directory is a file": {filepath.Join(base, "a"),
			strings.Replace(runText, "%s", taken+"/run.json", 1), "ada cannot enter .*not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			got := prepared(t, test.directory, to, test.text)
			if got.code != 1 || got.stdout != "" {
				t.Errorf("%+v", got)
			}
			expectOneLine(t, got.stderr, test.says)
		})
	}
}

func TestExecGivesTheCommandsExitCode(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		code    int
		signal  string
	}{
		"success":        {[]string{"true"}, 0, ""},
		"failure":        {[]string{"sh", "-c", "exit 7"}, 7, ""},
		"own signal":     {[]string{"sh", "-c", "kill -SEGV $$"}, 139, "SIGSEGV"},
		"real-time":      {[]string{"sh", "-c", "kill -40 $$"}, 168, "SIG40"},
		"without dashes": {[]string{"sh", "-c", "exit 3"}, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			directory := runDirectory(t)
			arguments := []string{"exec", "--"}
			if name == "without dashes" {
				arguments = []string{"exec"}
			}
			got := finish(t, labrun(directory, append(arguments, test.command...)...))
			record := readResult(t, directory)
			if got.code != test.code || record.ExitCode != test.code {
				t.Errorf("exit code %d, recorded %d", got.code, record.ExitCode)
			}
			if (record.Signal == nil) != (test.signal == "") || record.Signal != nil && *record.Signal != test.signal {
				t.Errorf("signal %v", record.Signal)
			}
			for _, text := range []string{record.StartedAt, record.FinishedAt} {
				if when, err := time.Parse(time.RFC3339, text); err != nil || !strings.HasSuffix(text, "Z") || time.Since(when) > time.Minute {
					t.Errorf("time %q: %v", text, err)
				}
			}
		})
	}
}

func TestWhatCannotStartEndsLikeAShell(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		command string
		code    int
		says    string
	}{
		"not in PATH":    {"no-such-program", 127, "no-such-program: command not found"},
		"no such file":   {folder + "/gone.sh", 127, "no such file in the pod"},
		"no interpreter": {write("a", "#!/no/python\n", 0o755), 127, "interpreter"},
		"not executable": {write("b", "#!/bin/sh\n", 0o644), 126, "permission denied"},
		"no #!":          {write("c", "echo\n", 0o755), 126, "no #!"},
		"a folder":       {folder, 126, "cannot start"},
	} {
		t.Run(name, func(t *testing.T) {
			directory := runDirectory(t)
			got := finish(t, labrun(directory, "exec", "--", test.command))
			if got.code != test.code || readResult(t, directory).ExitCode != test.code {
				t.Errorf("%+v", got)
			}
			expectOneLine(t, got.stdout, test.says)
			if log := readText(t, directory, "stdout.log"); log != got.stdout {
				t.Errorf("stdout.log: %q", log)
			}
		})
	}
}

func TestOutputIsTheSameInBothPlaces(t *testing.T) {
	for name, script := range map[string]string{
		"both streams in order": `for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done`,
		"no newline at the end": `printf 'epoch 1'`,
		"big, one line":         `head -c 20000000 /dev/zero | tr '\0' x`,
		"big, many lines":       `seq 1000000`,
		"none":                  `true`,
	} {
		t.Run(name, func(t *testing.T) {
			directory := runDirectory(t)
			got := finish(t, labrun(directory, "exec", "--", "sh", "-c", script))
			want, err := exec.Command("sh", "-c", "exec 2>&1; "+script).Output()
			if err != nil || got.stdout != string(want) || readText(t, directory, "stdout.log") != string(want) {
				t.Errorf("%d bytes printed, %d in stdout.log, want %d (%v)",
					len(got.stdout), len(readText(t, directory, "stdout.log")), len(want), err)
			}
		})
	}
}

func TestTheCommandsSurroundings(t *testing.T) {
	directory := runDirectory(t)
	got := finish(t, labrun(directory, "exec", "--", "sh", "-c",
		`cat; echo $LABCLUSTER_ARTIFACTS_DIR $PYTHONUNBUFFERED; grep SigIgn /proc/self/status | sed 's|8\(.......\)$|0\1|'`))
	// Signal 32, the C library's own, is the one that may be inherited: no program can take it back.
	want := directory + "/artifacts 1\nSigIgn:\t0000000000000000\n"
	if got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
}

func TestAFullDiskDoesNotEndTheRun(t *testing.T) {
	directory := runDirectory(t)
	if err := os.Symlink("/dev/full", filepath.Join(directory, "stdout.log")); err != nil {
		t.Fatal(err)
	}
	got := finish(t, labrun(directory, "exec", "--", "sh", "-c", "printf begun; sleep 0.1; echo; seq 3; exit 4"))
	if got.code != 4 || !strings.HasSuffix(got.stdout, "\n1\n2\n3\n") || !strings.HasPrefix(got.stdout, "begun\nlabrun: ") {
		t.Errorf("%+v", got)
	}
	expectOneLine(t, got.stdout, "stdout.log is not complete: .*no space left")
	if record := readResult(t, directory); record.LogError != "no space left on device" {
		t.Errorf("%+v", record)
	}
}

func TestALostRunDirectoryDoesNotEndTheRun(t *testing.T) {
	got := finish(t, labrun(filepath.Join(t.TempDir(), "gone"), "exec", "--", "sh", "-c", "echo on; exit 5"))
	if got.code != 5 || !strings.Contains(got.stdout, "\non\n") {
		t.Errorf("%+v", got)
	}
	for _, says := range []string{"stdout.log is not complete", "result.json is not written"} {
		if strings.Count(got.stdout, says) != 1 {
			t.Errorf("want %q once in %q", says, got.stdout)
		}
	}
}

func TestAClosedStandardOutputDoesNotEndTheRun(t *testing.T) {
	directory := runDirectory(t)
	command := labrun(directory, "exec", "--", "sh", "-c", "sleep 0.1; seq 100000; exit 6")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout = writer
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	_ = reader.Close()
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 6 || len(readText(t, directory, "stdout.log")) != 588895 {
		t.Errorf("exit code %d, %d bytes logged", code, len(readText(t, directory, "stdout.log")))
	}
}

// signalled starts a script, sends a signal when it has printed "ready" and waits for its end.
func signalled(t *testing.T, directory, script string, number syscall.Signal) outcome {
	t.Helper()
	command := labrun(directory, "exec", "--", "sh", "-c", script)
	reader, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	buffer := make([]byte, 4096)
	sent := false
	for {
		count, err := reader.Read(buffer)
		text.Write(buffer[:count])
		if !sent && strings.Contains(text.String(), "ready") {
			sent = true
			if err := command.Process.Signal(number); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			break
		}
	}
	_ = command.Wait()
	return outcome{command.ProcessState.ExitCode(), text.String(), ""}
}

func TestSignalsReachTheCommand(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		number syscall.Signal
		code   int
		says   string
	}{
		"SIGTERM ends it":           {"echo ready; sleep 30", syscall.SIGTERM, 143, ""},
		"SIGTERM below a shell":     {"sh -c 'echo ready; sleep 30'; echo not here", syscall.SIGTERM, 143, ""},
		"SIGUSR1, and it goes on":   {"trap 'echo checkpoint; exit 9' USR1; echo ready; sleep 30 & wait", syscall.SIGUSR1, 9, "checkpoint"},
		"SIGINT as on a terminal's": {"trap 'exit 8' INT; echo ready; while :; do sleep 0.05; done", syscall.SIGINT, 8, ""},
	} {
		t.Run(name, func(t *testing.T) {
			directory := runDirectory(t)
			began := time.Now()
			got := signalled(t, directory, test.script, test.number)
			record := readResult(t, directory)
			if got.code != test.code || record.ExitCode != test.code || !strings.Contains(got.stdout, test.says) {
				t.Errorf("%+v, recorded %+v", got, record)
			}
			if test.code == 143 && (record.Signal == nil || *record.Signal != "SIGTERM") {
				t.Errorf("signal %v", record.Signal)
			}
			if time.Since(began) > 10*time.Second || strings.Contains(got.stdout, "not here") {
				t.Errorf("it was not ended: %q after %v", got.stdout, time.Since(began))
			}
		})
	}
}

func TestACommandThatSavesWhenItsPodIsEndedHasNotFinished(t *testing.T) {
	directory := runDirectory(t)
	got := signalled(t, directory, "trap 'echo saved; exit 0' TERM; echo ready; sleep 30 & wait", syscall.SIGTERM)
	record := readResult(t, directory)
	if got.code != 143 || !strings.Contains(got.stdout, "saved") {
		t.Errorf("%+v", got)
	}
	if record.ExitCode != 0 || record.EndedBy != byTermination || record.Signal != nil {
		t.Errorf("recorded %+v", record)
	}
}

func TestProcessesLeftBehind(t *testing.T) {
	t.Run("do not keep the run open", func(t *testing.T) {
		directory := runDirectory(t)
		began := time.Now()
		got := finish(t, labrun(directory, "exec", "--", "sh", "-c", "sleep 60 & echo done"))
		if took := time.Since(began); got.stdout != "done\n" || got.code != 0 || took > 5*time.Second {
			t.Errorf("%+v after %v", got, took)
		}
	})
	t.Run("may print their last words", func(t *testing.T) {
		directory := runDirectory(t)
		got := finish(t, labrun(directory, "exec", "--", "sh", "-c", "(sleep 0.2; echo last words) & echo done"))
		if got.stdout != "done\nlast words\n" || readText(t, directory, "stdout.log") != got.stdout {
			t.Errorf("%+v", got)
		}
	})
	t.Run("are reaped", func(t *testing.T) {
		directory := runDirectory(t)
		// The orphan's parent becomes labrun; a zombie would be listed as a child of it.
		script := `(sh -c 'sleep 0.1' &) ; sleep 0.6; grep -l "^State:.Z" /proc/[0-9]*/status 2>/dev/null |
			xargs -r grep -l "^PPid:.$PPID$" 2>/dev/null | wc -l`
		if got := finish(t, labrun(directory, "exec", "--", "sh", "-c", script)); strings.TrimSpace(got.stdout) != "0" {
			t.Errorf("zombies: %+v", got)
		}
	})
}

func TestAsPidOne(t *testing.T) {
	directory := runDirectory(t)
	// A daemon in a session of its own survives a kill of the group, but not the end of PID 1's run.
	command := labrun(directory, "exec", "--", "sh", "-c", `echo parent $PPID; setsid sh -c 'exec sleep 60' & sleep 0.2; exit 5`)
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := exec.Command("unshare", "--pid", "--fork", "true").Run(); err != nil {
		t.Skip("making a PID namespace needs root")
	}
	began := time.Now()
	got := finish(t, command)
	if got.code != 5 || got.stdout != "parent 1\n" || time.Since(began) > 4*time.Second {
		t.Errorf("%+v after %v", got, time.Since(began))
	}
}

func TestAFinishedRunIsReadOnly(t *testing.T) {
	directory := runDirectory(t)
	shared := filepath.Join(t.TempDir(), "dataset")
	if err := os.WriteFile(shared, nil, 0o664); err != nil {
		t.Fatal(err)
	}
	script := `mkdir -p $LABCLUSTER_ARTIFACTS_DIR/sub; cd $LABCLUSTER_ARTIFACTS_DIR; umask 002
		echo x > sub/model; ln -s ` + shared + ` link; ln ` + shared + ` hard 2>/dev/null || true`
	finish(t, labrun(directory, "exec", "--", "sh", "-c", script))
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		info, infoErr := entry.Info()
		if err != nil || infoErr != nil {
			t.Fatal(err, infoErr)
		}
		if entry.Type()&fs.ModeSymlink == 0 && entry.Name() != "hard" && info.Mode().Perm()&0o222 != 0 {
			t.Errorf("%s can be written: %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(shared); err != nil || info.Mode().Perm()&0o200 == 0 {
		t.Errorf("a file outside the run became read-only: %v %v", info.Mode(), err)
	}
}

func TestWithoutARunDirectoryItOnlyRuns(t *testing.T) {
	if got := finish(t, labrun("", "exec", "--", "sh", "-c", "echo on; exit 2")); got.code != 2 || got.stdout != "on\n" {
		t.Errorf("%+v", got)
	}
}

func TestUsage(t *testing.T) {
	for _, arguments := range [][]string{{}, {"exec"}, {"exec", "--"}, {"prepare", "x"}, {"prepare", "--no"}, {"other"}} {
		if got := finish(t, labrun("", arguments...)); got.code != 2 || !strings.Contains(got.stderr, "usage: labrun") {
			t.Errorf("%q: %+v", arguments, got)
		}
	}
	if got := finish(t, labrun("", "--help")); got.code != 0 || !strings.Contains(got.stdout, "usage: labrun") {
		t.Errorf("%+v", got)
	}
}
