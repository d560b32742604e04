package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pod is a run directory with what the containers of a pod share.
type pod struct {
	t                *testing.T
	directory, tools string
	environment      []string
	requeue          bool
}

func newPod(t *testing.T, environment []string) *pod {
	t.Helper()
	one := &pod{t: t, directory: runDirectory(t), tools: t.TempDir()}
	one.environment = append(slices.Clone(environment), "LABRUN_TOOLS="+one.tools, "LABRUN_RECORD_INTERVAL=50ms",
		"LABRUN_FILE_INTERVAL=200ms", "LABRUN_RECORD_BACKOFF=200ms", "LABRUN_SYSTEM_INTERVAL=100ms",
		"LABRUN_START_PATIENCE=500ms", "LABRUN_RECORDER_PATIENCE=700ms", "LABRUN_END_PATIENCE=5s",
		"LABRUN_CLAIM_INTERVAL=100ms")
	one.prepare(1, "python3", "train.py", "--lr", "1e-3", "--epochs=3", "--amp")
	return one
}

func (one *pod) prepare(attempt int, command ...string) {
	one.t.Helper()
	run := map[string]any{
		"id": "vision-7", "name": "digits", "project": "vision", "user": "ada", "attempt": attempt, "command": command,
		"workdir": one.directory, "params": map[string]string{"epochs": "5"}, "seed": 42, "requeue": one.requeue,
		"code": map[string]any{
			"digest": kept(one.t, string(storeOf(one.directory)), []byte(`{"version":1,"layers":[]}`)),
			"commit": "abc123", "branch": "main",
		},
	}
	text, _ := json.Marshal(run)
	call := one.command("prepare", "--to", one.tools)
	call.Env = append(call.Env, "LABCLUSTER_RUN="+string(text), fmt.Sprintf("LABCLUSTER_ATTEMPT=%d", attempt))
	if got := finish(one.t, call); got.code != 0 {
		one.t.Fatalf("prepare: %+v", got)
	}
}

func (one *pod) command(arguments ...string) *exec.Cmd {
	call := labrun(one.directory, arguments...)
	call.Env = append(call.Env, one.environment...)
	return call
}

// record starts the sidecar and waits until it has said where the run is in MLflow.
func (one *pod) record(more ...string) *exec.Cmd {
	one.t.Helper()
	_ = os.Remove(filepath.Join(one.tools, recorderFile))
	call := one.command("record", "--tools", one.tools)
	call.Env = append(call.Env, more...)
	var output bytes.Buffer
	call.Stdout, call.Stderr = &output, &output
	if err := call.Start(); err != nil {
		one.t.Fatal(err)
	}
	one.t.Cleanup(func() {
		_ = call.Process.Kill()
		if one.t.Failed() {
			one.t.Logf("the recorder said: %s", output.String())
		}
	})
	one.await("the recorder begins", func() bool {
		_, err := os.Stat(filepath.Join(one.tools, recorderFile))
		return err == nil
	})
	return call
}

// end is what kubelet does when the command has ended.
func (one *pod) end(sidecar *exec.Cmd) time.Duration {
	one.t.Helper()
	began := time.Now()
	if err := sidecar.Process.Signal(syscall.SIGTERM); err != nil {
		one.t.Fatal(err)
	}
	if err := sidecar.Wait(); err != nil {
		one.t.Errorf("the sidecar ended with %v", err)
	}
	return time.Since(began)
}

func (one *pod) await(what string, met func() bool) {
	one.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !met(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			one.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (one *pod) write(name, text string) {
	one.t.Helper()
	file, err := os.OpenFile(filepath.Join(one.directory, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o660)
	if err == nil {
		_, err = file.WriteString(text)
	}
	if err != nil {
		one.t.Fatal(err)
	}
	_ = file.Close()
}

func (one *pod) recorded() []sample {
	one.t.Helper()
	var found []sample
	for _, text := range strings.Split(strings.TrimSpace(readText(one.t, one.directory, "recorded.jsonl")), "\n") {
		var entry sample
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			one.t.Fatalf("recorded.jsonl: %q: %v", text, err)
		}
		found = append(found, entry)
	}
	return found
}

func expectReadOnly(t *testing.T, directory string) {
	t.Helper()
	_ = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if info, infoErr := entry.Info(); infoErr == nil && info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o222 != 0 {
			t.Errorf("%s can be written: %v", path, info.Mode())
		}
		return err
	})
}

const training = `
echo begun
for step in 0 1 2; do
  echo "{\"labcluster\": \"metric\", \"step\": $step, \"loss\": 0.$step, \"acc\": NaN}"
  echo "labcluster: step=$step lr=1e-3"
done
echo '{"step": 9, "time": 1700000000.5, "val": {"loss": 2}}' >> "$LABCLUSTER_RUN_DIR/metrics.jsonl"
printf 'picture' > "$LABCLUSTER_ARTIFACTS_DIR/plot 1%.png"
mkdir "$LABCLUSTER_ARTIFACTS_DIR/model"; printf 'weights' > "$LABCLUSTER_ARTIFACTS_DIR/model/m.bin"
printf '{"lr": 0.001, "layers": [1, 2], "opt": {"name": "adam"}}' > "$LABCLUSTER_ARTIFACTS_DIR/args.json"
ln -s /etc/passwd "$LABCLUSTER_ARTIFACTS_DIR/link"
env | grep ^MLFLOW_ | sort
sleep 0.5
exit 3
`

func TestARunIsInMLflowWithoutALineInItsCode(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	sidecar := one.record()
	got := finish(t, one.command("exec", "--", "sh", "-c", training))
	if got.code != 3 {
		t.Fatalf("%+v", got)
	}
	if took := one.end(sidecar); took > 4*time.Second {
		t.Errorf("the pod's end waited %v", took)
	}
	run := server.only()
	for key, want := range map[string]string{
		"labcluster.run": "vision-7", "labcluster.user": "ada", "labcluster.commit": "abc123", "labcluster.attempt": "1",
		"labcluster.seed": "42", "mlflow.source.git.commit": "abc123", "labcluster.recorded": "1",
	} {
		if run.tags[key] != want {
			t.Errorf("tag %s: %q", key, run.tags[key])
		}
	}
	// --set before args.json before the command line.
	for key, want := range map[string]string{
		"epochs": "5", "lr": "0.001", "amp": "True", "layers": "[1,2]", "opt.name": "adam",
	} {
		if run.params[key] != want {
			t.Errorf("parameter %s: %q in %v", key, run.params[key], run.params)
		}
	}
	for key, want := range map[string][]int64{"loss": {0, 1, 2}, "acc": {0, 1, 2}, "lr": {0, 1, 2}, "val/loss": {9}} {
		if steps := run.steps(key); !slices.Equal(steps, want) {
			t.Errorf("metric %s: steps %v", key, steps)
		}
	}
	if !strings.HasPrefix(run.files["labcluster/stdout.log"], "begun\n") || run.files["plot%201%25.png"] != "picture" ||
		run.files["model/m.bin"] != "weights" || run.files["link"] != "" {
		t.Errorf("files: %q", run.files)
	}
	for _, name := range []string{"result.json", "node.json", "packages.json", "args.json"} {
		if !strings.HasPrefix(run.files["labcluster/"+name], "{") {
			t.Errorf("%s: %q", name, run.files["labcluster/"+name])
		}
	}
	if run.steps("system/memory_usage_megabytes") == nil && run.steps("system/cpu_utilization_percentage") == nil {
		t.Log("this machine shows no cgroup") // TestUseIsReadFromBothKindsOfCgroups
	}
	for _, want := range []string{
		"MLFLOW_EXPERIMENT_ID=1", "MLFLOW_RUN_ID=" + run.id, "MLFLOW_TRACKING_TOKEN=proof", "MLFLOW_WORKSPACE=vision",
		"MLFLOW_TRACKING_URI=" + server.URL + "/mlflow/w/vision", "MLFLOW_TRACKING_SERVER_CERT_PATH=" + one.tools + "/ca.crt",
	} {
		if !strings.Contains(got.stdout, want+"\n") {
			t.Errorf("%s is not in the command's environment: %s", want, got.stdout)
		}
	}
	var where identity
	if err := json.Unmarshal([]byte(readText(t, one.directory, "mlflow.json")), &where); err != nil ||
		where.RunID != run.id || !strings.HasPrefix(where.URL, server.URL+"/mlflow/w/vision/#/experiments/1/runs/") {
		t.Errorf("mlflow.json: %+v %v", where, err)
	}
	expectReadOnly(t, one.directory)
}

func TestWhatTheUserSetIsLeftAlone(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	one.record()
	call := one.command("exec", "--", "sh", "-c", "echo $MLFLOW_TRACKING_URI")
	call.Env = append(call.Env, "MLFLOW_TRACKING_URI=http://mine")
	if got := finish(t, call); got.stdout != "http://mine\n" {
		t.Errorf("%+v", got)
	}
}

func TestAnOutageLosesNothingAndDoublesNothing(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	sidecar := one.record()
	want := []int64{}
	for step := range int64(300) {
		one.write("stdout.log", fmt.Sprintf("labcluster: step=%d loss=0.5\n", step))
		want = append(want, step)
		server.goAway(step/50%2 == 1)
		if step%10 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	server.goAway(false)
	one.end(sidecar)
	run := server.only()
	if steps := run.steps("loss"); !slices.Equal(steps, want) {
		t.Errorf("%d steps arrived: %v", len(steps), steps)
	}
	if run.tags["labcluster.recorded"] != "1" {
		t.Errorf("tags: %v", run.tags)
	}
}

func TestMLflowAwayAllTheTimeIsDeliveredLater(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	server.goAway(true)
	sidecar := one.record()
	began := time.Now()
	got := finish(t, one.command("exec", "--", "sh", "-c", training))
	if got.code != 3 || time.Since(began) > 3*time.Second {
		t.Errorf("%+v after %v", got, time.Since(began))
	}
	if count := strings.Count(got.stdout, "labrun: "); count != 1 || !strings.Contains(got.stdout, "MLflow does not answer") {
		t.Errorf("one line should say so: %s", got.stdout)
	}
	if !strings.Contains(got.stdout, `MLFLOW_RUN_CONTEXT={"labcluster.run":"vision-7"}`) {
		t.Errorf("own calls could not be told to be this run's: %s", got.stdout)
	}
	if took := one.end(sidecar); took > 4*time.Second {
		t.Errorf("the pod's end waited %v", took)
	}
	expectReadOnly(t, one.directory)
	if got := finish(t, one.command("deliver", one.directory)); got.code != 1 {
		t.Errorf("deliver, MLflow away: %+v", got)
	}
	server.goAway(false)
	for range 2 { // a second Job finds nothing to do
		if got := finish(t, one.command("deliver", one.directory)); got.code != 0 {
			t.Errorf("deliver: %+v", got)
		}
	}
	run := server.only()
	if steps := run.steps("loss"); !slices.Equal(steps, []int64{0, 1, 2}) || run.params["lr"] != "0.001" ||
		run.files["model/m.bin"] != "weights" || run.puts["model/m.bin"] != 1 || run.tags["labcluster.recorded"] != "1" {
		t.Errorf("%+v", run)
	}
	// Not the moment of the delivery, but that in which it was said.
	for one := range run.metrics {
		if one.Timestamp > time.Now().UnixMilli() || one.Timestamp < 1600000000000 {
			t.Errorf("time of %+v", one)
		}
	}
	expectReadOnly(t, one.directory)
}

func TestARecorderThatIsKilledGoesOnWhereItWas(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	want := []int64{}
	for turn := range int64(6) {
		sidecar := one.record()
		for step := turn * 500; step < turn*500+500; step++ {
			one.write("stdout.log", fmt.Sprintf("labcluster: loss=%d\n", step))
			want = append(want, step)
		}
		time.Sleep(time.Duration(turn) * 15 * time.Millisecond)
		if turn < 5 {
			_ = sidecar.Process.Kill()
			_ = sidecar.Wait()
		} else {
			one.end(sidecar)
		}
	}
	run := server.only()
	if steps := run.steps("loss"); !slices.Equal(steps, want) {
		t.Errorf("%d of %d steps arrived", len(steps), len(want))
	}
	for entry := range run.metrics {
		if entry.Key == "loss" && int64(entry.Value) != entry.Step {
			t.Errorf("%+v", entry)
		}
	}
	if got := one.recorded(); len(got) != len(want) {
		t.Errorf("%d lines are recorded of %d", len(got), len(want))
	}
}

func TestARunIsNeverTwiceInMLflow(t *testing.T) {
	server := startStandIn(t)
	lost := 0
	server.lose = func(path string) bool {
		if path == "mlflow/runs/create" && lost < 1 {
			lost++
			return true
		}
		return false
	}
	one := newPod(t, server.environment(t))
	sidecar := one.record()
	one.write("stdout.log", "labcluster: loss=1\n")
	one.end(sidecar)
	if run := server.only(); lost != 1 || len(run.steps("loss")) != 1 {
		t.Errorf("lost %d, %+v", lost, run)
	}
	one.prepare(2, "python3", "train.py")
	one.environment = append(one.environment, "LABCLUSTER_ATTEMPT=2")
	server.only().status = "FAILED"
	sidecar = one.record()
	if status := server.only().status; status != "RUNNING" {
		t.Errorf("attempt 2 has begun, and MLflow says %s", status)
	}
	one.write("stdout.log", "labcluster: loss=2\n")
	one.end(sidecar)
	run := server.only()
	if steps := run.steps("loss"); !slices.Equal(steps, []int64{0, 1}) || run.tags["labcluster.attempt"] != "2" ||
		run.tags["labcluster.recorded"] != "2" {
		t.Errorf("%v %v", steps, run.tags)
	}
}

func TestARunThatTheProgramMadeItselfIsTheRun(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	server.goAway(true)
	sidecar := one.record()
	one.write("stdout.log", "labcluster: loss=1\n")
	server.goAway(false)
	one.await("it is delivered", func() bool {
		server.lock.Lock()
		defer server.lock.Unlock()
		return len(server.runs) == 1 && len(server.runs[0].metrics) == 1
	})
	// Now the program calls mlflow, which was told no run id.
	server.lock.Lock()
	server.add("1", []pair{{"labcluster.run", "vision-7"}}).params["lr"] = "0.5"
	server.lock.Unlock()
	one.end(sidecar)
	run := server.only()
	if run.id != "r2" || len(run.steps("loss")) != 1 || run.params["lr"] != "0.5" || run.params["epochs"] != "5" {
		t.Errorf("%+v", run)
	}
}

func TestWhatMLflowRefusesIsLeftOutAlone(t *testing.T) {
	server := startStandIn(t)
	server.badKey = "bad"
	one := newPod(t, server.environment(t))
	for step := range 1500 {
		one.write("metrics.jsonl", fmt.Sprintf(`{"step": %d, "good": 1, "time": %d}`+"\n", step, 1700000000+step))
	}
	one.write("metrics.jsonl", `{"step": 1, "bad": 2}`+"\n")
	one.end(one.record())
	run := server.only()
	if len(run.steps("good")) != 1500 || run.steps("bad") != nil || run.tags["labcluster.recorded"] != "1" {
		t.Errorf("%d good", len(run.steps("good")))
	}
	for _, size := range server.batches {
		if size > 1000 {
			t.Errorf("a batch of %d", size)
		}
	}
}

func TestFilesAreSentOnceAndWithinTheirLimits(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, append(server.environment(t), "LABCLUSTER_RECORD_FILE_MIB=1", "LABCLUSTER_RECORD_LOG_MIB=1"))
	one.write("artifacts/small", "a")
	one.write("artifacts/large", strings.Repeat("x", 1<<20+1))
	one.write("stdout.log", strings.Repeat("0123456789abcde\n", 1<<17)+"the end\n")
	sidecar := one.record()
	one.await("it is there while the run goes on", func() bool { return server.only().puts["small"] == 1 })
	time.Sleep(500 * time.Millisecond)
	one.write("artifacts/late", "b")
	one.end(sidecar)
	run := server.only()
	if run.puts["small"] != 1 || run.files["late"] != "b" || run.files["large"] != "" {
		t.Errorf("%v", run.puts)
	}
	if left := run.tags["labcluster.left_out"]; !strings.Contains(left, "large") || !strings.Contains(left, "1 MiB") {
		t.Errorf("left out: %q", left)
	}
	log := run.files["labcluster/stdout.log"]
	if !strings.HasPrefix(log, "==== the first 1048584 bytes are only in "+one.directory) || !strings.HasSuffix(log, "the end\n") ||
		len(log) > 1<<20+1000 {
		t.Errorf("%d bytes of the log, %q", len(log), cut(log, 200))
	}
}

// A pod's connections are refused until its node has applied the network policies to it.
func TestAPodWithoutItsNetworkYetWaitsForIt(t *testing.T) {
	server := startStandIn(t)
	behind := server.Listener.Addr().String()
	one := newPod(t, server.environment(t))
	server.goAway(true)
	sidecar := one.record()
	finish(t, one.command("exec", "--", "sh", "-c", training))
	one.end(sidecar)
	server.goAway(false)
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := reserved.Addr().String()
	_ = reserved.Close()
	late := one.command("deliver", one.directory)
	late.Env = append(late.Env, "LABCLUSTER_PORTAL=https://"+address)
	time.AfterFunc(time.Second, func() { forward(t, address, behind) })
	if got := finish(t, late); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if run := server.only(); run.tags["labcluster.recorded"] != "1" {
		t.Errorf("tags: %v", run.tags)
	}
}

// forward passes connections to an address on to another one until the test ends.
func forward(t *testing.T, from, to string) {
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
			go func() { _, _ = io.Copy(near, far); _ = near.Close() }()
		}
	}()
}

func TestParametersOfARunThatMayGoOnAreLeftToIt(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	one.requeue = true
	one.prepare(1, "python3", "train.py", "--lr", "1e-3")
	sidecar := one.record()
	// The node is drained before the program says what its parameters are.
	if got := signalled(t, one.directory, "echo ready; sleep 30", syscall.SIGTERM); got.code != 143 {
		t.Errorf("%+v", got)
	}
	one.end(sidecar)
	if run := server.only(); len(run.params) != 0 || run.tags["labcluster.recorded"] != "" || run.files["labcluster/stdout.log"] == "" {
		t.Errorf("%v %v", run.params, run.tags)
	}
	// It is not tried again after all.
	if got := finish(t, one.command("deliver", one.directory)); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if run := server.only(); run.params["lr"] != "0.001" || run.tags["labcluster.recorded"] != "1" {
		t.Errorf("%v %v", run.params, run.tags)
	}
}

func TestALaterAttemptTakesTheRecordOver(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, server.environment(t))
	first := one.record()
	one.write("stdout.log", "labcluster: loss=1\n")
	one.await("it is delivered", func() bool { return len(server.only().metrics) == 1 })
	one.prepare(2, "true")
	second := one.record("LABCLUSTER_ATTEMPT=2")
	time.Sleep(500 * time.Millisecond) // the first looks every 100 ms
	one.write("stdout.log", "labcluster: loss=2\n")
	if took := one.end(first); took > time.Second {
		t.Errorf("the earlier attempt's recorder still works: it ended after %v", took)
	}
	if tags := server.only().tags; tags["labcluster.recorded"] != "" {
		t.Errorf("it told the end of a run that goes on: %v", tags)
	}
	// Begun anew by its kubelet, it has nothing to say either.
	late := one.record()
	one.end(second)
	one.end(late)
	run := server.only()
	if steps := run.steps("loss"); !slices.Equal(steps, []int64{0, 1}) || run.tags["labcluster.attempt"] != "2" ||
		run.tags["labcluster.recorded"] != "2" {
		t.Errorf("%v %v", steps, run.tags)
	}
}

func TestOtherPodsOfAGangRecordTheirUseOnly(t *testing.T) {
	server := startStandIn(t)
	one := newPod(t, append(server.environment(t), "LABCLUSTER_NODES=2", "MASTER_ADDR=localhost"))
	one.write("rank-1.system.jsonl", `{"system/rank_1/memory_usage_megabytes": 5, "step": 0, "time": 1700000000}`+"\n")
	one.write("rank-1.log", "labcluster: loss=1\n")
	first := one.record()
	second := one.record("NODE_RANK=1")
	text := readText(t, one.tools, recorderFile)
	one.end(second)
	one.end(first)
	run := server.only()
	if !strings.Contains(text, run.id) || run.steps("loss") != nil || run.steps("system/rank_1/memory_usage_megabytes") == nil {
		t.Errorf("%s %v", text, run.metrics)
	}
	if run.files["labcluster/rank-1.log"] == "" {
		t.Errorf("%v", run.puts)
	}
}

func TestRecorderIsQuickAndSmall(t *testing.T) {
	server := startStandIn(t)
	// As long as a batch takes MLflow itself on two processors.
	server.delay = func(path string) {
		if strings.HasSuffix(path, "log-batch") {
			time.Sleep(100 * time.Millisecond)
		}
	}
	one := newPod(t, server.environment(t))
	const count = 50_000
	var text strings.Builder
	for step := range count {
		fmt.Fprintf(&text, "{\"labcluster\": \"metric\", \"step\": %d, \"train/loss\": 0.125}\nsomething else\n", step)
	}
	one.write("stdout.log", text.String())
	one.write("artifacts/model.bin", "x")
	if err := os.Truncate(filepath.Join(one.directory, "artifacts", "model.bin"), 200<<20); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	sidecar := one.record()
	one.await("all are delivered", func() bool {
		server.lock.Lock()
		defer server.lock.Unlock()
		return len(server.runs) == 1 && len(server.runs[0].metrics) >= count
	})
	rate := count / time.Since(began).Seconds()
	one.await("the model has arrived", func() bool {
		server.lock.Lock()
		defer server.lock.Unlock()
		return server.runs[0].puts["model.bin"] == 1
	})
	most := 0
	for _, text := range strings.Split(readText(t, "/proc", fmt.Sprint(sidecar.Process.Pid), "status"), "\n") {
		_, _ = fmt.Sscanf(text, "VmHWM: %d kB", &most)
	}
	one.end(sidecar)
	t.Logf("%.0f metrics/s, %d MiB at most, %v of processor time", rate, most>>10, sidecar.ProcessState.UserTime())
	if rate < 5000 {
		t.Errorf("%.0f metrics/s", rate)
	}
	if most == 0 || most > 40<<10 {
		t.Errorf("%d MiB of memory", most>>10)
	}
}
