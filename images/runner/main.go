// Command labrun is the only thing of ours inside a run's pod. It is one static program
// (CGO_ENABLED=0, standard library only), so it runs in any image a user brings:
//
//	labrun prepare            in the init container: makes the run directory, checks the code out into it
//	labrun exec -- COMMAND…   in the user's container, as PID 1: starts the command and keeps its record
//	labrun record             in a sidecar: brings the record to MLflow, through the portal (record.go)
//	labrun deliver DIR…       in a Job of its own: the same for ended runs, when MLflow was away
//
// What it produces in the run directory (design §4):
//
//	run.json      the run as the portal accepted it          prepare
//	args.json     command, working directory, parameters     prepare
//	code/         the code as it was submitted, checked      prepare, checkout.go
//	code.json, code.patch, data.json                         prepare, checkout.go and data.go
//	env.json      the variables given by --env               prepare
//	artifacts/    where the command leaves its results       prepare
//	stdout.log    what the command printed, both streams     exec
//	result.json   exit code, signal and times                exec
//	node.json, packages.json, system.jsonl                   exec, observe.go
//	recorded.jsonl, mlflow.json, .recorder.json              record
//
// The pods of a run on several nodes share the directory; the first keeps stdout.log and result.json, the
// others rank-<n>.log and rank-<n>.json. A later attempt of a run goes on in the same directory (attempt.go).
//
// A finished run's directory is read-only. The record never decides over the run: when it cannot be
// written, one line says so and the command goes on; the exit code is always the command's own
// (126 and 127 as a shell has them, 128 + n when signal n ended it).
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const usage = `usage: labrun prepare [--to DIR] [-- COMMAND [ARGUMENT...]]
       labrun exec -- COMMAND [ARGUMENT...]
       labrun record [--tools DIR]
       labrun deliver RUN-DIRECTORY...
`

// terminationLog is the file whose text Kubernetes keeps as the container's own last word; the portal
// shows it as the run's reason.
const terminationLog = "/dev/termination-log"

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(arguments []string) int {
	if len(arguments) > 0 {
		switch arguments[0] {
		case "prepare":
			return prepareMain(arguments[1:])
		case "exec":
			return execMain(arguments[1:])
		case "record":
			return recordMain(arguments[1:])
		case "deliver":
			return deliverMain(arguments[1:])
		case "help", "-h", "--help":
			fmt.Print(usage)
			return 0
		}
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

// fail says a fatal error on standard error and as the container's termination message.
func fail(err error) int {
	line := fmt.Sprintf("labrun: %v\n", err)
	fmt.Fprint(os.Stderr, line)
	say(line)
	return 1
}

// say leaves the container's last word.
func say(text string) {
	if file, err := os.OpenFile(terminationLog, os.O_WRONLY|os.O_TRUNC, 0); err == nil {
		_, _ = file.WriteString(text)
		_ = file.Close()
	}
}

// writeJSON replaces a file as a whole: a reader sees the old text, the new one, or none.
func writeJSON(path string, value any, sync bool) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(path, 0o660, sync, bytes.NewReader(append(text, '\n')))
}

// replaceFile gives a file other content as a whole, also while it is open elsewhere: a reader sees the old or the new.
func replaceFile(path string, mode fs.FileMode, sync bool, from io.Reader) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = io.Copy(temporary, from)
	if err == nil {
		err = temporary.Chmod(mode)
	}
	if err == nil && sync {
		err = temporary.Sync()
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}
