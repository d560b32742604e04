package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// Lines that are longer are no metrics.
	maxLine = 64 << 10
	// What is read of a source, or sent, before the others get their turn.
	readChunk = 1 << 20
	batchSize = 1000
	// Batches on their way at the same time.
	senders = 2
)

var (
	pollInterval = durationOf("LABRUN_RECORD_INTERVAL", 2*time.Second)
	fileInterval = durationOf("LABRUN_FILE_INTERVAL", 30*time.Second)
	maxBackoff   = durationOf("LABRUN_RECORD_BACKOFF", 30*time.Second)
)

// runFile is what the recorder reads of run.json.
type runFile struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Project   string            `json:"project"`
	User      string            `json:"user"`
	Directory string            `json:"directory"`
	Attempt   int               `json:"attempt"`
	Nodes     int               `json:"nodes"`
	Command   []string          `json:"command"`
	Params    map[string]string `json:"params"`
	Seed      *int64            `json:"seed"`
	Requeue   bool              `json:"requeue"`
	Parent    string            `json:"parent"`
	Code      *struct {
		Commit string `json:"commit"`
		Branch string `json:"branch"`
		Remote string `json:"remote"`
	} `json:"code"`
}

func readRunFile(directory string) (runFile, error) {
	var run runFile
	text, err := os.ReadFile(filepath.Join(directory, "run.json"))
	if err == nil {
		err = json.Unmarshal(text, &run)
	}
	if err != nil {
		return run, fmt.Errorf("cannot read run.json: %w", explain(err))
	}
	return run, nil
}

// recorder keeps one pod's record: what its sources say goes into recorded.jsonl, and from there to MLflow.
type recorder struct {
	where  location
	run    runFile
	server *mlflow
	limits fileLimits
	out    *os.File // recorded.jsonl

	// Guards what follows: files are uploaded beside everything else.
	lock     sync.Mutex
	state    state
	saved    time.Time
	identity *identity
	down     bool // whether MLflow failed when it was last asked
	dirty    bool
	// Whether MLflow may have another run of this one's: of a lost answer, or made by the program.
	unsure bool

	backoff time.Duration
	retryAt time.Time
	skip    map[string]bool      // sources in the middle of a line that is too long
	again   map[string]time.Time // when a file may be uploaded again while the command runs
}

// newRecorder opens the record of a run directory that prepare has made.
func newRecorder(where location, server *mlflow, limits fileLimits) (*recorder, error) {
	if where.rank > 0 {
		limits = fileLimits{}
	}
	made := &recorder{where: where, server: server, limits: limits, skip: map[string]bool{}, again: map[string]time.Time{}}
	var err error
	if made.run, err = readRunFile(where.directory); err != nil {
		return nil, err
	}
	if made.run.Attempt > where.attempt {
		return nil, fmt.Errorf("attempt %d of this run has begun", made.run.Attempt)
	}
	made.run.Directory = where.directory
	made.run.Attempt = where.attempt
	// The command as it was started, with its parameters in their places.
	var args arguments
	if text, err := os.ReadFile(filepath.Join(where.directory, "args.json")); err == nil &&
		json.Unmarshal(text, &args) == nil && len(args.Command) > 0 {
		made.run.Command = args.Command
	}
	var alone bool
	if made.out, alone, err = openRecorded(where.file("recorded.jsonl")); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", where.file("recorded.jsonl"), explain(err))
	}
	if err = made.resume(alone); err != nil {
		_ = made.out.Close()
		return nil, err
	}
	return made, nil
}

// resume takes up what an earlier recorder left.
func (rec *recorder) resume(alone bool) error {
	var err error
	if rec.state, err = loadState(rec.where.file(".recorder.json")); err != nil {
		return fmt.Errorf("cannot read .recorder.json: %w", explain(err))
	}
	// The recorder of an earlier attempt has seen this one's claim (attempt.go); its lost node may still hold the lock.
	if !alone && rec.state.Attempt == rec.where.attempt {
		return errors.New("it is being recorded by another")
	}
	if rec.state.Attempt != rec.where.attempt {
		rec.state.Attempt, rec.state.Complete, rec.state.Params = rec.where.attempt, false, false
	}
	info, err := rec.out.Stat()
	if err != nil {
		return err
	}
	if info.Size() < rec.state.Recorded {
		// The node died before all of it was written: read everything again, into an empty file.
		rec.state.Sources, rec.state.Steps = map[string]int64{}, map[string]int64{}
		rec.state.Recorded, rec.state.Delivered = 0, 0
	}
	rec.state.Delivered = min(rec.state.Delivered, rec.state.Recorded)
	if info.Size() > rec.state.Recorded {
		err = rec.out.Truncate(rec.state.Recorded)
	}
	return err
}

func (rec *recorder) close() { _ = rec.out.Close() }

// source is a file that says metrics, line by line.
type source struct {
	path  string
	parse func([]byte) line
}

func (rec *recorder) sources() []source {
	system := source{rec.where.file("system.jsonl"), parseJSON}
	if rec.where.rank > 0 {
		return []source{system}
	}
	return []source{
		{rec.where.log(), parseStdout},
		{filepath.Join(rec.where.directory, "metrics.jsonl"), parseJSON},
		system,
	}
}

// collect moves what the sources have gained into recorded.jsonl; `rest` says to take an unfinished last line too.
// It says whether there is more to read at once.
func (rec *recorder) collect(rest bool) (bool, error) {
	more := false
	var found []sample
	offsets := map[string]int64{}
	steps := make(map[string]int64)
	rec.lock.Lock()
	for key, step := range rec.state.Steps {
		steps[key] = step
	}
	rec.lock.Unlock()
	for _, from := range rec.sources() {
		name := filepath.Base(from.path)
		got, offset, again, err := rec.read(from, steps, rest)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("cannot read %s: %w", name, explain(err))
		}
		if err == nil {
			found, offsets[name], more = append(found, got...), offset, more || again
		}
	}
	size := rec.state.Recorded
	if len(found) > 0 {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		for _, one := range found {
			_ = encoder.Encode(one)
		}
		if _, err := rec.out.WriteAt(text.Bytes(), size); err != nil {
			return false, fmt.Errorf("cannot write recorded.jsonl: %w", explain(err))
		}
		// On the server before the offsets that say so.
		if err := rec.out.Sync(); err != nil {
			return false, fmt.Errorf("cannot write recorded.jsonl: %w", explain(err))
		}
		size += int64(text.Len())
	}
	rec.lock.Lock()
	defer rec.lock.Unlock()
	for name, offset := range offsets {
		rec.state.Sources[name] = offset
	}
	rec.state.Steps = steps
	rec.state.Recorded = size
	if len(found) > 0 {
		rec.dirty, rec.state.Complete = true, false
		return more, rec.save()
	}
	return more, nil
}

// read takes whole lines of one source from where it was left.
func (rec *recorder) read(from source, steps map[string]int64, rest bool) ([]sample, int64, bool, error) {
	name := filepath.Base(from.path)
	offset := rec.state.Sources[name]
	file, err := os.Open(from.path)
	if err != nil {
		return nil, offset, false, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, offset, false, err
	}
	if info.Size() < offset { // begun anew
		offset, rec.skip[name] = 0, false
	}
	// What is read late, after an outage or a restart, was said when the file was last written.
	when := time.Now()
	if info.ModTime().Before(when) {
		when = info.ModTime()
	}
	var found []sample
	reader := bufio.NewReaderSize(io.NewSectionReader(file, offset, readChunk), maxLine)
	end := min(info.Size(), offset+readChunk)
	for {
		text, err := reader.ReadSlice('\n')
		whole := err == nil
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			rec.skip[name] = true
			offset += int64(len(text))
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, offset, false, err
		case !whole && offset+int64(len(text)) >= end && end < info.Size():
			// The end of what is read now, not of the line.
			return found, offset, true, nil
		case !whole && !(rest && len(text) > 0):
			return found, offset, false, nil
		}
		offset += int64(len(text))
		if rec.skip[name] {
			rec.skip[name] = !whole
		} else {
			found = append(found, from.parse(text).samples(steps, when)...)
		}
		if !whole || len(found) >= 4*batchSize {
			return found, offset, whole, nil
		}
	}
}

// save writes the state; the lock is held.
func (rec *recorder) save() error {
	rec.saved, rec.dirty = time.Now(), false
	if err := keep(rec.where.file(".recorder.json"), rec.state); err != nil {
		return fmt.Errorf("cannot write .recorder.json: %w", explain(err))
	}
	return nil
}

// saveSometimes keeps progress that it costs little to make again.
func (rec *recorder) saveSometimes() error {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	if rec.dirty && time.Since(rec.saved) > 2*pollInterval {
		return rec.save()
	}
	return nil
}

// deliver sends what is recorded and not yet delivered; false if there is more to send at once.
func (rec *recorder) deliver(ctx context.Context) (bool, error) {
	if rec.identity == nil {
		return true, nil
	}
	start, end := rec.state.Delivered, rec.state.Recorded
	if start == end {
		return true, nil
	}
	batches, size, err := rec.batches(start, end)
	if err != nil {
		return true, err
	}
	var wait sync.WaitGroup
	errs := make([]error, len(batches))
	for index, batch := range batches {
		wait.Add(1)
		go func() {
			defer wait.Done()
			errs[index] = rec.sendMetrics(ctx, batch)
		}()
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return true, err
	}
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.state.Delivered += size
	rec.dirty = true
	return rec.state.Delivered == rec.state.Recorded, nil
}

// metric is a sample as MLflow's REST has it.
type metric struct {
	Key       string `json:"key"`
	Value     number `json:"value"`
	Timestamp int64  `json:"timestamp"`
	Step      int64  `json:"step"`
}

// batches reads the next lines of recorded.jsonl, and how many bytes they are.
func (rec *recorder) batches(start, end int64) ([][]metric, int64, error) {
	reader := bufio.NewReaderSize(io.NewSectionReader(rec.out, start, end-start), maxLine)
	var batches [][]metric
	var size int64
	for len(batches) < senders {
		batch := make([]metric, 0, batchSize)
		for len(batch) < batchSize {
			text, err := reader.ReadSlice('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, 0, fmt.Errorf("cannot read recorded.jsonl: %w", explain(err))
			}
			size += int64(len(text))
			var one sample
			if json.Unmarshal(text, &one) == nil {
				batch = append(batch, metric{one.Key, one.Value, int64(one.Time*1000 + 0.5), one.Step})
			}
			if err != nil {
				return append(batches, batch), size, nil
			}
		}
		batches = append(batches, batch)
	}
	return batches, size, nil
}

// sendMetrics sends a batch; of one that is refused the halves, until only what is at fault is left out.
func (rec *recorder) sendMetrics(ctx context.Context, batch []metric) error {
	if len(batch) == 0 {
		return nil
	}
	err := rec.server.logBatch(ctx, rec.identity.RunID, map[string]any{"metrics": batch})
	if !isRefused(err) || gone(err) {
		return err
	}
	if len(batch) == 1 {
		rec.leaveOut("metric "+batch[0].Key, err)
		return nil
	}
	half := len(batch) / 2
	if err := rec.sendMetrics(ctx, batch[:half]); err != nil {
		return err
	}
	return rec.sendMetrics(ctx, batch[half:])
}

func (rec *recorder) leaveOut(what string, err error) {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.state.Refused++
	rec.state.RefusedLast = cut(what+": "+err.Error(), 500)
	if rec.state.Refused == 1 {
		fmt.Printf("labrun: %s\n", rec.state.RefusedLast)
	}
}

// sendParams adds the parameters that the program has not recorded itself. Only at the end: MLflow refuses a second
// value of a parameter, so that ours would end a program that writes 0.001 where the command says 1e-3.
func (rec *recorder) sendParams(ctx context.Context) error {
	if rec.state.Params {
		return nil
	}
	there, err := rec.server.get(ctx, rec.identity.RunID)
	if err != nil {
		return err
	}
	found := rec.parameters()
	for _, param := range there.Data.Params {
		delete(found, param.Key)
	}
	params := sorted(found)
	for len(params) > 0 {
		batch := params[:min(len(params), 100)]
		params = params[len(batch):]
		if err := rec.sendPairs(ctx, "params", batch); err != nil {
			return err
		}
	}
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.state.Params, rec.dirty = true, true
	return nil
}

func (rec *recorder) sendPairs(ctx context.Context, kind string, batch []pair) error {
	err := rec.server.logBatch(ctx, rec.identity.RunID, map[string]any{kind: batch})
	if !isRefused(err) || gone(err) {
		return err
	}
	if len(batch) == 1 {
		rec.leaveOut(strings.TrimSuffix(kind, "s")+" "+batch[0].Key, err)
		return nil
	}
	half := len(batch) / 2
	if err := rec.sendPairs(ctx, kind, batch[:half]); err != nil {
		return err
	}
	return rec.sendPairs(ctx, kind, batch[half:])
}

func (rec *recorder) parameters() map[string]string {
	return parameters(rec.run, filepath.Join(rec.where.directory, "artifacts"))
}
