package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// `labrun record` runs beside the command, as a native sidecar under the same uid. It never decides over the run:
// whatever happens to it, it ends with 0, and what it could not deliver is in the run directory, from where
// `labrun deliver` (a Job of its own, when MLflow answers again) takes it up.

const (
	// Files that both containers see.
	toolsFolder  = "/labcluster"
	recorderFile = "recorder.json"
	tokenFile    = "/var/run/secrets/labcluster/token/token"
	// Settings by which the program stays below 40 MiB.
	memoryLimit = 20 << 20
)

var (
	// How long the command may be kept waiting for its MLflow run; labrun exec waits a little longer.
	startPatience = durationOf("LABRUN_START_PATIENCE", 2500*time.Millisecond)
	// How long the pod's end may be kept waiting, and how long where MLflow was away when the command ended.
	endPatience  = durationOf("LABRUN_END_PATIENCE", 10*time.Second)
	downPatience = 3 * time.Second
	// How long a Job that delivers waits for its network.
	networkPatience = time.Minute
)

// announcement is recorder.json: which MLflow run the command's own mlflow calls go to; empty ids if it is not known.
type announcement struct {
	ExperimentID string `json:"experiment_id"`
	RunID        string `json:"run_id"`
	Experiment   string `json:"experiment"`
}

func recordMain(args []string) int {
	flags := flag.NewFlagSet("record", flag.ContinueOnError)
	tools := flags.String("tools", toolsFolder, "folder shared with the user's container")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	keepSmall()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	stop, cancel := context.WithCancel(context.Background())
	go func() { <-ended; cancel() }()
	where := place()
	for {
		rec, err := openAs(where)
		if err == nil {
			rec.attend(stop, *tools)
			rec.close()
			return 0
		}
		fmt.Printf("labrun: nothing is recorded now: %v\n", err)
		announce(*tools, announcement{})
		select {
		case <-stop.Done():
			return 0
		case <-time.After(pollInterval):
		}
	}
}

func keepSmall() {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(50)
}

func openAs(where location) (*recorder, error) {
	server, err := newMLflow(os.Getenv("LABCLUSTER_PORTAL"), os.Getenv("LABCLUSTER_PORTAL_PAGE"),
		os.Getenv("LABCLUSTER_PROJECT"), tokenPath(), authority())
	if err != nil {
		return nil, err
	}
	return newRecorder(where, server, limitsOf())
}

func tokenPath() string {
	if path := os.Getenv("LABRUN_TOKEN_FILE"); path != "" { // tests
		return path
	}
	return tokenFile
}

// authority is the certificate that the portal's is checked with; empty: those of the system.
func authority() string {
	if text := os.Getenv("LABCLUSTER_CA"); text != "" {
		return text
	}
	text, _ := os.ReadFile(filepath.Join(toolsFolder, "ca.crt"))
	return string(text)
}

func limitsOf() fileLimits {
	mebibytes := func(name string, otherwise int64) int64 {
		if value, err := strconv.ParseInt(os.Getenv(name), 10, 40); err == nil && value >= 0 {
			return value << 20
		}
		return otherwise << 20
	}
	return fileLimits{
		file:  mebibytes("LABCLUSTER_RECORD_FILE_MIB", 1024),
		all:   mebibytes("LABCLUSTER_RECORD_FILES_MIB", 10240),
		log:   mebibytes("LABCLUSTER_RECORD_LOG_MIB", 64),
		count: 10_000,
	}
}

func announce(tools string, what announcement) {
	if err := writeJSON(filepath.Join(tools, recorderFile), what, false); err != nil {
		fmt.Printf("labrun: cannot write %s: %v\n", recorderFile, explain(err))
	}
}

// attend records until `stop`, and delivers what is left then as long as the pod's end may wait.
func (rec *recorder) attend(stop context.Context, tools string) {
	// Requests outlive `stop` by as long as the end may take.
	work, cancel := context.WithCancel(context.Background())
	defer cancel()
	rec.greet(work, stop, tools)
	var files sync.WaitGroup
	files.Add(1)
	go func() { defer files.Done(); rec.attendFiles(work, stop) }()
	claimed := superseded(rec.where)
	var said string
	for {
		more, err := rec.turn(work)
		if err != nil && err.Error() != said {
			said = err.Error()
			fmt.Printf("labrun: %s\n", said)
		}
		wait := pollInterval
		if more {
			wait = 0
		}
		select {
		case <-claimed:
			// The folder is the next attempt's, and so is the rest of the record. Not to end: kubelet would begin anew.
			cancel()
			files.Wait()
			<-stop.Done()
			return
		case <-stop.Done():
			patience := endPatience
			if rec.isDown() {
				patience = min(patience, downPatience)
			}
			time.AfterFunc(patience, cancel)
			files.Wait()
			rec.finish(work, false)
			return
		case <-time.After(wait):
		}
	}
}

// greet finds the MLflow run within the time that the command may wait for it, and tells it.
func (rec *recorder) greet(work, stop context.Context, tools string) {
	first, cancel := context.WithTimeout(work, startPatience)
	defer cancel()
	defer context.AfterFunc(stop, cancel)()
	err := rec.meet(first, true)
	said := announcement{Experiment: rec.run.Name}
	if err == nil {
		said.ExperimentID, said.RunID = rec.identity.ExperimentID, rec.identity.RunID
		rec.worked()
	} else {
		// The program is told no run and may make one.
		rec.unsure = true
		rec.failed(err)
	}
	announce(tools, said)
}

// turn moves everything one step on, and says whether there is more to do at once. An error is one of the run
// directory; those of MLflow only make it wait.
func (rec *recorder) turn(ctx context.Context) (bool, error) {
	more, err := rec.collect(false)
	if rec.server != nil && !time.Now().Before(rec.retryAt) {
		all, sendErr := true, error(nil)
		if rec.identity == nil {
			sendErr = rec.connect(ctx, true)
		}
		if sendErr == nil {
			all, sendErr = rec.deliver(ctx)
		}
		if sendErr != nil {
			rec.failed(sendErr)
		} else {
			rec.worked()
			more = more || !all
		}
	}
	return more, errors.Join(err, rec.saveSometimes())
}

func (rec *recorder) isDown() bool {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	return rec.down
}

func (rec *recorder) isConnected() bool {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	return rec.identity != nil && !rec.down
}

// attendFiles looks at the run's files now and then.
func (rec *recorder) attendFiles(work, stop context.Context) {
	uploading, cancel := context.WithCancel(work)
	defer cancel()
	for {
		select {
		case <-stop.Done():
			return
		case <-work.Done():
			return
		case <-time.After(fileInterval):
		}
		if !rec.isConnected() {
			continue
		}
		// What is on its way when the command ends is sent anew by finish, as far as there is time.
		detach := context.AfterFunc(stop, cancel)
		err := rec.uploadFiles(uploading, false)
		detach()
		if err != nil && uploading.Err() == nil {
			fmt.Printf("labrun: a file is not uploaded yet: %s\n", cut(err.Error(), 300))
		}
	}
}

// mayGoOn says whether another attempt may follow: what the command does itself ends a run (docs/explanation/
// run-states.md), what the cluster does to one with --requeue does not.
func (rec *recorder) mayGoOn() bool {
	var last result
	text, err := os.ReadFile(rec.where.result(0))
	itself := err == nil && json.Unmarshal(text, &last) == nil && last.Attempt == rec.where.attempt &&
		last.EndedBy != byTermination
	return rec.run.Requeue && !itself
}

// finish takes what the sources still have and delivers everything. It says whether MLflow has all; `final` says
// that the run will not be tried again.
func (rec *recorder) finish(ctx context.Context, final bool) bool {
	for more := true; more; {
		var err error
		if more, err = rec.collect(true); err != nil {
			fmt.Printf("labrun: %v\n", err)
			break
		}
	}
	err := rec.deliverAll(ctx, final)
	if err != nil {
		fmt.Printf("labrun: the rest of the record is kept on disk and delivered later: %s\n", cut(err.Error(), 300))
	}
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.state.Complete = err == nil
	if err := rec.save(); err != nil {
		fmt.Printf("labrun: %v\n", err)
	}
	return err == nil
}

func (rec *recorder) deliverAll(ctx context.Context, final bool) error {
	if rec.identity == nil || rec.unsure {
		if err := rec.connect(ctx, false); err != nil {
			return err
		}
	}
	for all := false; !all; {
		var err error
		if all, err = rec.deliver(ctx); err != nil {
			return err
		}
	}
	if rec.where.rank > 0 {
		return nil
	}
	if err := rec.uploadFiles(ctx, true); err != nil {
		return err
	}
	if !final && rec.mayGoOn() {
		return errors.New("the run may be tried again, and its parameters are its own until it has ended")
	}
	if err := rec.sendParams(ctx); err != nil {
		return err
	}
	return rec.sendTags(ctx, rec.identity.RunID, []pair{{tagRecorded, strconv.Itoa(max(rec.where.attempt, 1))}})
}
