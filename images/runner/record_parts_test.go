package main

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMetricLines(t *testing.T) {
	for text, want := range map[string]string{
		`{"labcluster": "metric", "step": 3, "loss": 0.1, "acc": 1}`:  `[{"key":"acc","value":1,"step":3,"time":5},{"key":"loss","value":0.1,"step":3,"time":5}]`,
		`  { "labcluster" : "metric", "loss": -1e-3}  `:               `[{"key":"loss","value":-0.001,"step":0,"time":5}]`,
		`{"labcluster": "metric", "loss": NaN, "n": -Infinity}`:       `[{"key":"loss","value":"NaN","step":0,"time":5},{"key":"n","value":"-Infinity","step":0,"time":5}]`,
		`{"labcluster": "metric", "time": 7.25, "ok": true}`:          `[{"key":"ok","value":1,"step":0,"time":7.25}]`,
		`{"labcluster": "metric", "val": {"loss": 2, "a": {"b": 3}}}`: `[{"key":"val/a/b","value":3,"step":0,"time":5},{"key":"val/loss","value":2,"step":0,"time":5}]`,
		`{"labcluster": "metric", "a!b": 1, "../x": 2, "name": "v"}`:  `[{"key":"a_b","value":1,"step":0,"time":5},{"key":"x","value":2,"step":0,"time":5}]`,
		`labcluster: step=3 loss=0.1, acc=0.9; epoch=x`:               `[{"key":"loss","value":0.1,"step":3,"time":5},{"key":"acc","value":0.9,"step":3,"time":5}]`,
		"50%|#####     | 5/10\rlabcluster: loss=nan":                  `[{"key":"loss","value":"NaN","step":0,"time":5}]`,
		`{"labcluster": "something", "loss": 0.1}`:                    `[]`,
		`{"loss": 0.1}`:                      `[]`,
		`labcluster: `:                       `[]`,
		`{"labcluster": "metric", "loss": }`: `[]`,
		`loss=0.1`:                           `[]`,
		``:                                   `[]`,
	} {
		got, err := json.Marshal(parseStdout([]byte(text)).samples(map[string]int64{}, time.Unix(5, 0)))
		if err != nil || string(got) != want {
			t.Errorf("%s\n  got %s %v\n want %s", text, got, err, want)
		}
	}
}

func TestMetricsWithoutAStepAreCounted(t *testing.T) {
	steps := map[string]int64{}
	for want := range int64(3) {
		got := parsePairs("loss=1").samples(steps, time.Now())
		if len(got) != 1 || got[0].Step != want {
			t.Errorf("%+v, want step %d", got, want)
		}
	}
}

func TestValuesSurviveTheFile(t *testing.T) {
	for _, value := range []float64{0, -1.5e-300, 1e300, math.Inf(1), math.Inf(-1), math.NaN(), 0.1} {
		text, err := json.Marshal(number(value))
		var back number
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if err != nil || float64(back) != value && !(math.IsNaN(value) && math.IsNaN(float64(back))) {
			t.Errorf("%v became %v (%s, %v)", value, back, text, err)
		}
	}
}

func TestParametersOfTheCommand(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		want    map[string]string
	}{
		"forms":    {[]string{"python", "t.py", "--lr", "0.1", "--batch-size=32", "--amp"}, map[string]string{"lr": "0.1", "batch_size": "32", "amp": "True"}},
		"negative": {[]string{"python", "t.py", "--bias", "-0.5", "-v", "--x"}, map[string]string{"bias": "-0.5", "x": "True"}},
		"several":  {[]string{"t", "--layers", "64", "32", "data"}, map[string]string{"layers": "64 32"}},
		"launcher": {[]string{"torchrun", "--nproc_per_node", "2", "t.py", "--lr=1"}, map[string]string{"nproc_per_node": "2", "lr": "1"}},
		"shell": {[]string{"bash", "-lc", `cd x && python t.py --lr 0.1 --name 'a b' --out "$HOME" --d; echo --e=1`},
			map[string]string{"lr": "0.1", "name": "a b", "out": "", "d": "True", "e": "1"}},
		"none": {[]string{"python", "-m", "x", "-k", "v"}, map[string]string{}},
	} {
		if got := commandParameters(test.command); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestUseIsReadFromBothKindsOfCgroups(t *testing.T) {
	tree := func(files map[string]string) cgroup {
		root := t.TempDir()
		for name, text := range files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return openCgroup(root)
	}
	for name, group := range map[string]cgroup{
		"v1": tree(map[string]string{
			"cpuacct/cpuacct.usage": "2500000000\n", "cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n",
			"memory/memory.usage_in_bytes": "1000\n", "memory/memory.stat": "cache 5\ntotal_inactive_file 300\n",
		}),
		"v2": tree(map[string]string{
			"cgroup.controllers": "cpu memory\n", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "cpu.max": "150000 100000\n",
			"memory.current": "1000\n", "memory.stat": "anon 5\ninactive_file 300\n",
		}),
	} {
		if group.cpuSeconds() != 2.5 || group.cpus() != 1.5 || group.memoryBytes() != 700 {
			t.Errorf("%s: %v s, %v cpus, %v bytes", name, group.cpuSeconds(), group.cpus(), group.memoryBytes())
		}
	}
	empty := tree(nil)
	if empty.cpuSeconds() >= 0 || empty.memoryBytes() >= 0 || empty.cpus() < 1 {
		t.Errorf("%v %v %v", empty.cpuSeconds(), empty.memoryBytes(), empty.cpus())
	}
}

// The container toolkit says "void" in every container that has its GPUs through CDI.
func TestUseOfGPUsIsAskedOfNvidiaSMI(t *testing.T) {
	folder := t.TempDir()
	program := "#!/bin/sh\n[ \"$1\" = --query-gpu=index,utilization.gpu,memory.used ] && printf '0, 35, 1000\\n1, [N/A], 0\\n'\n"
	if err := os.WriteFile(filepath.Join(folder, "nvidia-smi"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	t.Setenv("NVIDIA_VISIBLE_DEVICES", "void")
	use, err := gpuUse()
	wanted := map[string]float64{
		"gpu_0_utilization_percentage": 35, "gpu_0_memory_usage_megabytes": 1048.58, "gpu_1_memory_usage_megabytes": 0,
	}
	if err != nil || !maps.Equal(use, wanted) {
		t.Fatalf("%v, %v", use, err)
	}
}

func TestPackagesAreFoundByTheirFolders(t *testing.T) {
	root := t.TempDir()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PYTHONPATH", "")
	t.Setenv("PATH", filepath.Join(root, "venv", "bin"))
	make := func(path string) {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"NumPy-2.1.0.dist-info", "scikit_learn-1.5.2.dist-info", "old-0.1-py3.11.egg-info", "numpy"} {
		make("venv/lib/python3.11/site-packages/" + name)
	}
	make("base/lib/python3.11/site-packages/numpy-1.0.dist-info")
	make("base/lib/python3.9/site-packages/wrong-1.0.dist-info")
	make("base/bin")
	make("venv/bin")
	python := filepath.Join(root, "base/bin/python3.11")
	script := filepath.Join(root, "train.py")
	for path, text := range map[string]string{
		python: "", script: "#!/usr/bin/env python\n", filepath.Join(root, "venv/pyvenv.cfg"): "home = x\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(root, "venv/bin/python")
	if err := os.Symlink(python, link); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"numpy": "2.1.0", "scikit-learn": "1.5.2", "old": "0.1"}
	for _, command := range [][]string{{link, "train.py"}, {"python", "t.py"}, {script}, {"sh", "-c", "python t.py"}} {
		got := pythonPackages(command)
		if got.Python != link || got.Version != "3.11" || !maps.Equal(got.Packages, want) {
			t.Errorf("%v: %+v", command, got)
		}
	}
	if got := pythonPackages([]string{python}); got.Packages["numpy"] != "1.0" || got.Packages["wrong"] != "" {
		t.Errorf("%+v", got)
	}
}

func TestNumbersAreWrittenAsPythonPrintsThem(t *testing.T) {
	for text, want := range map[string]string{
		"1e-3": "0.001", "1E5": "100000.0", "1e-5": "1e-05", "1.0": "1.0", "1.": "1.0", ".5": "0.5", "2.50": "2.5",
		"1e16": "1e+16", "1e15": "1000000000000000.0", "-0.0": "-0.0", "3": "3", "007": "007", "1e": "1e", "v1.0": "v1.0",
		"1.2.3": "1.2.3", "": "", "nan": "nan",
	} {
		if got := asPython(text); got != want {
			t.Errorf("%s became %s, not %s", text, got, want)
		}
	}
}
