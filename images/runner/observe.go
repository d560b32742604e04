package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// labrun exec is in the user's container and so the one who sees its cgroup, its GPUs and its Python. What it sees
// it writes into the run directory: node.json and packages.json once, system.jsonl every few seconds, under MLflow's
// own names for system metrics.

var systemInterval = durationOf("LABRUN_SYSTEM_INTERVAL", 10*time.Second)

const (
	// nvidia-smi of a broken GPU may hang for ever; after so many failures it is left alone.
	smiTimeout  = 5 * time.Second
	smiFailures = 3
	// How long the end of the run may wait for facts that are still being gathered.
	factsPatience = 2 * time.Second
)

type observer struct {
	where location
	lock  sync.Mutex
	ended bool
	facts chan struct{}
}

// observe begins to look, beside the command.
func observe(where location, command []string) *observer {
	watch := &observer{where: where, facts: make(chan struct{})}
	if where.directory == "" {
		close(watch.facts)
		return watch
	}
	go func() {
		defer close(watch.facts)
		watch.write("node.json", nodeFacts(where))
		if where.rank == 0 {
			watch.write("packages.json", pythonPackages(command))
		}
	}()
	go watch.sample()
	return watch
}

// stop makes sure that nothing more is written into the run directory.
func (watch *observer) stop() {
	select {
	case <-watch.facts:
	case <-time.After(factsPatience):
	}
	// A file system that does not answer holds the lock; the run's end does not wait for that.
	done := make(chan struct{})
	go func() {
		watch.lock.Lock()
		watch.ended = true
		watch.lock.Unlock()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(factsPatience):
	}
}

// write is best effort: the record never decides over the run.
func (watch *observer) write(name string, value any) {
	watch.lock.Lock()
	defer watch.lock.Unlock()
	if !watch.ended {
		_ = writeJSON(watch.where.file(name), value, false)
	}
}

func (watch *observer) append(name string, text []byte) {
	watch.lock.Lock()
	defer watch.lock.Unlock()
	if watch.ended {
		return
	}
	file, err := os.OpenFile(watch.where.file(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o660)
	if err == nil {
		_, _ = file.Write(text)
		_ = file.Close()
	}
}

func (watch *observer) sample() {
	prefix := "system/"
	if watch.where.rank > 0 {
		prefix += "rank_" + strconv.Itoa(watch.where.rank) + "/" // as MLflow tells nodes apart
	}
	group := openCgroup("/sys/fs/cgroup")
	began, failures, step := time.Now(), 0, 0
	used, last := group.cpuSeconds(), began
	for range time.Tick(systemInterval) {
		values := map[string]any{}
		now, seconds := time.Now(), group.cpuSeconds()
		if seconds >= used && used >= 0 {
			percent := 100 * (seconds - used) / now.Sub(last).Seconds() / group.cpus()
			values[prefix+"cpu_utilization_percentage"] = round(min(percent, 100))
		}
		used, last = seconds, now
		if bytes := group.memoryBytes(); bytes >= 0 {
			values[prefix+"memory_usage_megabytes"] = round(bytes / 1e6)
		}
		if failures < smiFailures {
			gpus, err := gpuUse()
			if err != nil {
				failures++
			}
			for name, value := range gpus {
				values[prefix+name] = value
			}
		}
		if len(values) > 0 {
			values["step"], values["time"] = step, float64(now.UnixMilli())/1000
			step++
			if text, err := json.Marshal(values); err == nil {
				watch.append("system.jsonl", append(text, '\n'))
			}
		}
	}
}

func round(value float64) float64 { return float64(int64(value*100+0.5)) / 100 }

// cgroup is the container's own, which it sees as the root of what is mounted there.
type cgroup struct {
	root string
	v2   bool
}

func openCgroup(root string) cgroup {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return cgroup{root, err == nil}
}

func (group cgroup) read(path string) string {
	text, _ := os.ReadFile(filepath.Join(group.root, path))
	return strings.TrimSpace(string(text))
}

// field gives a number of a file of lines `name number`; -1 if it is not there.
func (group cgroup) field(path, name string) float64 {
	for _, entry := range strings.Split(group.read(path), "\n") {
		if key, value, found := strings.Cut(entry, " "); found && key == name {
			return toNumber(value)
		}
	}
	return -1
}

// cpuSeconds is the processor time used so far; -1 if unknown.
func (group cgroup) cpuSeconds() float64 {
	if group.v2 {
		if micros := group.field("cpu.stat", "usage_usec"); micros >= 0 {
			return micros / 1e6
		}
		return -1
	}
	for _, path := range []string{"cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage"} {
		if nanos := toNumber(group.read(path)); nanos >= 0 {
			return nanos / 1e9
		}
	}
	return -1
}

// cpus is how many processors the container may use.
func (group cgroup) cpus() float64 {
	quota, period := -1.0, -1.0
	if group.v2 {
		if first, second, found := strings.Cut(group.read("cpu.max"), " "); found {
			quota, period = toNumber(first), toNumber(second)
		}
	} else {
		for _, folder := range []string{"cpu", "cpu,cpuacct"} {
			if value := toNumber(group.read(folder + "/cpu.cfs_quota_us")); value > 0 {
				quota, period = value, toNumber(group.read(folder+"/cpu.cfs_period_us"))
			}
		}
	}
	if quota > 0 && period > 0 {
		return quota / period
	}
	return float64(runtime.NumCPU())
}

// memoryBytes is the memory that cannot be had back without a loss, as kubelet counts it; -1 if unknown.
func (group cgroup) memoryBytes() float64 {
	usage, stat, inactive := "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"
	if group.v2 {
		usage, stat, inactive = "memory.current", "memory.stat", "inactive_file"
	}
	bytes := toNumber(group.read(usage))
	if bytes < 0 {
		return -1
	}
	return max(0, bytes-max(0, group.field(stat, inactive)))
}

func toNumber(text string) float64 {
	value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return -1
	}
	return value
}

// gpuUse asks nvidia-smi, where the image or the container toolkit has one.
func gpuUse() (map[string]float64, error) {
	rows, err := nvidiaSMI("index,utilization.gpu,memory.used")
	found := map[string]float64{}
	for _, row := range rows {
		if len(row) != 3 {
			continue
		}
		for column, name := range map[int]string{1: "utilization_percentage", 2: "memory_usage_megabytes"} {
			if value := toNumber(row[column]); value >= 0 {
				if column == 2 {
					value = round(value * (1 << 20) / 1e6) // nvidia-smi counts in MiB
				}
				found["gpu_"+row[0]+"_"+name] = value
			}
		}
	}
	return found, err
}

func nvidiaSMI(fields string) ([][]string, error) {
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return nil, err
	}
	text, err := capture([]string{path, "--query-gpu=" + fields, "--format=csv,noheader,nounits"}, smiTimeout)
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, row := range strings.Split(strings.TrimSpace(text), "\n") {
		if row != "" {
			rows = append(rows, strings.Split(row, ", "))
		}
	}
	return rows, nil
}

// capture gives what a program prints. Not os/exec: only supervise may wait for children, and it reaps this one too.
func capture(args []string, patience time.Duration) (string, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer reader.Close()
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), writer.Fd(), null.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	_ = writer.Close()
	if err != nil {
		return "", err
	}
	_ = reader.SetReadDeadline(time.Now().Add(patience))
	text := make([]byte, 64<<10)
	size := 0
	for size < len(text) {
		var count int
		count, err = reader.Read(text[size:])
		size += count
		if err != nil {
			break
		}
	}
	if os.IsTimeout(err) {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return "", err
	}
	return string(text[:size]), nil
}
