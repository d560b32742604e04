package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func with(command *exec.Cmd, variables ...string) *exec.Cmd {
	command.Env = append(command.Env, variables...)
	return command
}

func TestTimeLimit(t *testing.T) {
	for name, test := range map[string]struct {
		script         string
		code           int
		says, endedBy  string
		least, atMost  time.Duration
		limit, warning string
	}{
		"warned, and it saves": {"trap 'echo saved; exit 0' TERM; sleep 30 & wait", 0, "saved\n", byTimeLimit, time.Second, 3 * time.Second, "3", "2"},
		"warned, and it ends":  {"sleep 30", 143, "SIGTERM is sent now", byTimeLimit, time.Second, 3 * time.Second, "3", "2"},
		"deaf, and killed": {"trap '' TERM; echo deaf; while :; do sleep 0.05; done", 137, "deaf\n", byTimeLimit,
			2 * time.Second, 4 * time.Second, "2", "1"},
		"no warning time":    {"sleep 30", 0, "", byTimeLimit, time.Second, 3 * time.Second, "1", "0"},
		"in time":            {"echo done", 0, "done\n", "", 0, time.Second, "2", "1"},
		"no limit":           {"echo done", 0, "done\n", "", 0, time.Second, "", ""},
		"longer than needed": {"exit 4", 4, "", "", 0, time.Second, "2592000", "30"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			directory := runDirectory(t)
			began := time.Now()
			got := finish(t, with(labrun(directory, "exec", "--", "sh", "-c", test.script),
				"LABCLUSTER_TIME_SECONDS="+test.limit, "LABCLUSTER_WARNING_SECONDS="+test.warning))
			took, record := time.Since(began), readResult(t, directory)
			if name == "no warning time" { // both happen in the same moment: either may be first
				if got.code != 137 && got.code != 143 {
					t.Errorf("%+v", got)
				}
			} else if got.code != test.code || record.ExitCode != test.code {
				t.Errorf("%+v, recorded %+v", got, record)
			}
			if !strings.Contains(got.stdout, test.says) || record.EndedBy != test.endedBy {
				t.Errorf("%+v, recorded %+v", got, record)
			}
			if took < test.least || took > test.atMost {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// attempt is the environment of one attempt of a run.
func attempt(number int) string { return fmt.Sprintf("LABCLUSTER_ATTEMPT=%d", number) }

func preparedAttempt(t *testing.T, directory string, number int) (outcome, time.Duration) {
	t.Helper()
	text := strings.Replace(strings.Replace(runText, "%s", filepath.Dir(directory), 1),
		`"vision-7"`, fmt.Sprintf(`"vision-7", "attempt": %d`, number), 1)
	began := time.Now()
	got := finish(t, with(labrun(directory, "prepare", "--to", t.TempDir()), "LABCLUSTER_RUN="+text, attempt(number),
		"LABRUN_CLAIM_INTERVAL=100ms"))
	return got, time.Since(began)
}

func TestALaterAttemptGoesOnInTheSameFolder(t *testing.T) {
	directory := runDirectory(t)
	preparedAttempt(t, directory, 1)
	finish(t, with(labrun(directory, "exec", "--", "sh", "-c",
		`echo one; mkdir $LABCLUSTER_ARTIFACTS_DIR/sub; echo 1 > $LABCLUSTER_ARTIFACTS_DIR/sub/step; exit 9`), attempt(1)))
	if got, took := preparedAttempt(t, directory, 2); got.code != 0 || took > 250*time.Millisecond {
		t.Fatalf("prepare: %+v after %v", got, took)
	}
	got := finish(t, with(labrun(directory, "exec", "--", "sh", "-c",
		`echo two; echo 2 >> $LABCLUSTER_ARTIFACTS_DIR/sub/step; echo > $LABCLUSTER_ARTIFACTS_DIR/new`), attempt(2)))
	if got.code != 0 || got.stdout != "two\n" {
		t.Errorf("%+v", got)
	}
	log := readText(t, directory, "stdout.log")
	if !strings.HasPrefix(log, "one\n\n==== attempt 2, ") || !strings.HasSuffix(log, " ====\ntwo\n") {
		t.Errorf("stdout.log: %q", log)
	}
	if step := readText(t, directory, "artifacts", "sub", "step"); step != "1\n2\n" {
		t.Errorf("the earlier attempt's files: %q", step)
	}
	if record := readResult(t, directory); record.Attempt != 2 || record.ExitCode != 0 {
		t.Errorf("%+v", record)
	}
	if kept := readText(t, directory, "result.attempt-1.json"); !strings.Contains(kept, `"exit_code": 9`) {
		t.Errorf("the earlier attempt's result: %s", kept)
	}
	if info, err := os.Stat(directory); err != nil || info.Mode().Perm()&0o222 != 0 {
		t.Errorf("the finished run can be written: %v %v", info.Mode(), err)
	}
}

func TestAnAttemptThatMayStillRunGivesWay(t *testing.T) {
	directory := runDirectory(t)
	preparedAttempt(t, directory, 1)
	first := with(labrun(directory, "exec", "--", "sh", "-c", "trap '' TERM; while :; do echo on; sleep 0.05; done"),
		attempt(1), "LABRUN_CLAIM_INTERVAL=100ms")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	for readLogged(directory) == "" {
		time.Sleep(10 * time.Millisecond)
	}
	got, took := preparedAttempt(t, directory, 2)
	if got.code != 0 || took < 300*time.Millisecond || !strings.Contains(got.stdout, "may still run") {
		t.Errorf("%+v after %v", got, took)
	}
	_ = first.Wait()
	if code := first.ProcessState.ExitCode(); code != supersededExit {
		t.Errorf("the first attempt ended with %d", code)
	}
	if _, err := os.Stat(filepath.Join(directory, "result.json")); !os.IsNotExist(err) {
		t.Errorf("the first attempt wrote a result: %v", err)
	}
	if err := os.WriteFile(filepath.Join(directory, "new"), nil, 0o600); err != nil {
		t.Errorf("the first attempt closed the folder: %v", err)
	}
	if got, _ := preparedAttempt(t, directory, 1); got.code != 1 {
		t.Errorf("an earlier attempt took the folder back: %+v", got)
	} else {
		expectOneLine(t, got.stderr, "attempt 2 of this run has begun already")
	}
}

func readLogged(directory string) string {
	text, _ := os.ReadFile(filepath.Join(directory, "stdout.log"))
	return string(text)
}

func TestThePodsOfARunShareItsFolder(t *testing.T) {
	directory := runDirectory(t)
	rank := func(number int, script string) outcome {
		return finish(t, with(labrun(directory, "exec", "--", "sh", "-c", script), attempt(1),
			fmt.Sprintf("NODE_RANK=%d", number), "LABCLUSTER_NODES=3"))
	}
	rank(0, "echo zero")
	rank(2, "echo two; exit 2")
	if info, err := os.Stat(directory); err != nil || info.Mode().Perm()&0o200 == 0 {
		t.Errorf("closed before the last has ended: %v %v", info.Mode(), err)
	}
	rank(1, "echo one")
	for name, text := range map[string]string{"stdout.log": "zero\n", "rank-1.log": "one\n", "rank-2.log": "two\n"} {
		if got := readText(t, directory, name); got != text {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := readText(t, directory, "rank-2.json"); !strings.Contains(got, `"exit_code": 2`) {
		t.Errorf("rank-2.json: %s", got)
	}
	if record := readResult(t, directory); record.ExitCode != 0 {
		t.Errorf("%+v", record)
	}
	if info, err := os.Stat(directory); err != nil || info.Mode()&(fs.ModePerm&0o222) != 0 {
		t.Errorf("not closed after the last has ended: %v %v", info.Mode(), err)
	}
}
