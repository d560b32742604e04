package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// record is the part of the portal's Run that prepare reads; run.json keeps the whole of it.
type record struct {
	ID      string            `json:"id"`
	Attempt int               `json:"attempt"`
	Project string            `json:"project"`
	User    string            `json:"user"`
	Command []string          `json:"command"`
	Workdir string            `json:"workdir"`
	Env     map[string]string `json:"env"`
	Params  map[string]string `json:"params"`
	Seed    *int64            `json:"seed"`
	Data    []string          `json:"data"`
	// Code is nil of a run that works where it was submitted.
	Code *struct {
		Digest string `json:"digest"`
		Subdir string `json:"subdir"`
	} `json:"code"`
}

// arguments is args.json: the command as it is started.
type arguments struct {
	Command []string          `json:"command"`
	Workdir string            `json:"workdir"`
	Params  map[string]string `json:"params"`
	Seed    *int64            `json:"seed"`
}

func prepareMain(args []string) int {
	flags := flag.NewFlagSet("prepare", flag.ContinueOnError)
	to := flags.String("to", "/labcluster", "folder shared with the user's container, where labrun is copied to")
	var command []string
	if end := slices.Index(args, "--"); end >= 0 {
		args, command = args[:end], args[end+1:]
	}
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err := prepare(os.Getenv("LABCLUSTER_RUN"), os.Getenv("LABCLUSTER_RUN_DIR"), *to, command); err != nil {
		return fail(err)
	}
	return 0
}

// prepare makes the run directory and puts labrun where the user's container finds it. It may be
// called again for the same run (a node that restarts runs init containers anew).
func prepare(text, directory, to string, command []string) error {
	var run record
	if err := json.Unmarshal([]byte(text), &run); err != nil || run.ID == "" {
		return fmt.Errorf("LABCLUSTER_RUN does not hold a run (%v): labrun prepare is started by the portal", err)
	}
	if !filepath.IsAbs(directory) {
		return fmt.Errorf("LABCLUSTER_RUN_DIR is %q, not an absolute path: labrun prepare is started by the portal", directory)
	}
	if err := checkWorkdir(run); err != nil {
		return err
	}
	where := place()
	if err := makeDirectories(run, directory); err != nil {
		return err
	}
	unfinished, err := where.takeOver()
	if err != nil {
		return fmt.Errorf("cannot go on in %s: %w", directory, explain(err))
	}
	env := run.Env
	if env == nil {
		env = map[string]string{}
	}
	if run.Params == nil {
		run.Params = map[string]string{}
	}
	args := arguments{run.Command, run.Workdir, run.Params, run.Seed}
	if len(command) > 0 {
		args.Command = command
	}
	if run.Code != nil {
		args.Workdir = filepath.Join(directory, codeFolder, run.Code.Subdir)
	}
	files := []struct {
		name  string
		value any
	}{
		{"env.json", env},
		{"args.json", args},
		{"run.json", json.RawMessage(text)},
	}
	for _, file := range files {
		if err := writeJSON(filepath.Join(directory, file.name), file.value, false); err != nil {
			return fmt.Errorf("cannot write %s: %w", file.name, explain(err))
		}
	}
	if unfinished {
		fmt.Printf("labrun: the earlier attempt left no result, so it may still run: waiting %v until it has seen this one\n",
			claimPatience)
		time.Sleep(claimPatience)
	}
	if run.Code != nil {
		if err := checkOut(run, where); err != nil {
			return err
		}
	}
	if err := recordData(run, where); err != nil {
		return err
	}
	if where.size > 1 {
		awaitName(os.Getenv("MASTER_ADDR"))
	}
	// For the command's own calls of the portal, and the recorder's.
	if authority := os.Getenv("LABCLUSTER_CA"); authority != "" {
		if err := os.WriteFile(filepath.Join(to, "ca.crt"), []byte(authority), 0o644); err != nil {
			return fmt.Errorf("cannot write ca.crt: %w", explain(err))
		}
	}
	return copyPrograms(to)
}

// awaitName waits until the first pod has an address: programs look its name up once and give up.
func awaitName(name string) {
	for turn := 0; ; turn++ {
		wait, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := net.DefaultResolver.LookupHost(wait, name)
		cancel()
		if err == nil {
			return
		}
		if turn == 0 {
			fmt.Printf("labrun: waiting for the address of %s\n", name)
		}
		time.Sleep(time.Second)
	}
}

// checkWorkdir finds here, with the user's own uid, what would otherwise end as an error of the
// container runtime that no user can read.
func checkWorkdir(run record) error {
	if run.Workdir == "" || run.Code != nil {
		return nil
	}
	info, err := os.Stat(run.Workdir)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = syscall.Access(run.Workdir, 1) // X_OK
	}
	if err != nil {
		return fmt.Errorf("%s cannot enter the working directory %s on the node: %w; submit from a directory of project %s or from your home",
			run.User, run.Workdir, explain(err), run.Project)
	}
	return nil
}

func makeDirectories(run record, directory string) error {
	err := os.Mkdir(directory, 0o770)
	if errors.Is(err, fs.ErrExist) {
		err = sameRun(run, directory)
	}
	for _, path := range []string{directory, filepath.Join(directory, "artifacts")} {
		if err == nil {
			if err = os.Mkdir(path, 0o770); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
		// Mkdir is subject to the umask; files of the run belong to the project's group.
		if err == nil {
			err = os.Chmod(path, 0o770|fs.ModeSetgid)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make the run directory %s: %w; project %s may be new (wait a few seconds) or its storage full",
			directory, explain(err), run.Project)
	}
	return nil
}

// sameRun refuses a directory of another run: a run id belongs to exactly one run.
func sameRun(run record, directory string) error {
	other, err := readRecord(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && other.ID != run.ID {
		err = fmt.Errorf("it belongs to run %s already", other.ID)
	}
	return err
}

// copyPrograms puts what the user's container needs of ours where it finds it. The ssh server of `labctl shell`
// lies beside labrun in our image; a run does not need it.
func copyPrograms(to string) error {
	if err := copyProgram("/proc/self/exe", filepath.Join(to, "labrun")); err != nil {
		return err
	}
	self, _ := os.Executable()
	err := copyProgram(filepath.Join(filepath.Dir(self), "labssh"), filepath.Join(to, "labssh"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func copyProgram(from, path string) error {
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("cannot read the program: %w", err)
	}
	defer source.Close()
	// A second call must not truncate a program that is running.
	if err := replaceFile(path, 0o555, false, source); err != nil {
		return fmt.Errorf("cannot copy the program to %s: %w", path, explain(err))
	}
	return nil
}

// explain takes the operation and the path out of an error whose message names them already.
func explain(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}
