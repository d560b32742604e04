package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// meet connects for the first time. A pod is refused every connection until its node has applied the network policies
// to it, and a pod that is not the first of its run has to wait for that one; both take a moment.
func (rec *recorder) meet(ctx context.Context, begins bool) error {
	err := rec.connect(ctx, begins)
	for err != nil && (rec.where.rank > 0 || errors.Is(err, syscall.ECONNREFUSED)) && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
		err = rec.connect(ctx, begins)
	}
	return err
}

// connect finds the run in MLflow, or makes it there; afterwards identity is set. There is one such run, whatever
// was cut off in between: it is looked for before it is made, and looked for again at the end if there may be another.
// `begins` says that the command is about to run or runs, so that the run in MLflow is not a finished one.
func (rec *recorder) connect(ctx context.Context, begins bool) error {
	if rec.where.rank > 0 {
		return rec.follow(ctx)
	}
	if rec.server == nil {
		return errors.New("there is no portal")
	}
	experiment, err := rec.server.experiment(ctx, rec.run.Name)
	if err != nil {
		return err
	}
	tags := runTags(rec.run)
	if text, err := json.Marshal(rec.parameters()); err == nil {
		tags = append(tags, pair{tagParams, cut(string(text), maxTagValue)})
	}
	runs, err := rec.server.named(ctx, experiment, rec.run.ID)
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		made, err := rec.server.create(ctx, experiment, rec.run, rec.begun(), tags)
		if err != nil {
			// It may have been made, and be seen only later.
			rec.unsure = true
			return err
		}
		return rec.use(made)
	}
	mine := rec.choose(runs)
	for _, other := range runs {
		if other.Info.RunID != mine.Info.RunID && other.tag(tagOrigin) == originRecorder {
			if err := rec.server.post(ctx, "runs/delete", map[string]string{"run_id": other.Info.RunID}, nil); err != nil {
				return err
			}
		}
	}
	if begins && mine.Info.Status != "RUNNING" {
		update := map[string]any{"run_id": mine.Info.RunID, "status": "RUNNING"}
		if err := rec.server.post(ctx, "runs/update", update, nil); err != nil {
			return err
		}
	}
	if err := rec.sendTags(ctx, mine.Info.RunID, tags); err != nil {
		return err
	}
	return rec.use(mine)
}

// use makes a run of MLflow's this one's.
func (rec *recorder) use(run runAnswer) error {
	found := run.identity(rec.server)
	if known := rec.known(); known.RunID != "" && known.RunID != found.RunID {
		rec.startOver()
	}
	if err := keep(filepath.Join(rec.where.directory, "mlflow.json"), found); err != nil {
		return fmt.Errorf("cannot write mlflow.json: %w", explain(err))
	}
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.identity = &found
	return nil
}

// choose prefers a run that the program made, because nobody can tell it to use another; then the one that it was
// told; then the oldest.
func (rec *recorder) choose(runs []runAnswer) runAnswer {
	known := rec.known()
	chosen := runs[0]
	for _, run := range runs {
		if run.tag(tagOrigin) != originRecorder {
			return run
		}
		if run.Info.RunID == known.RunID {
			chosen = run
		}
	}
	return chosen
}

// known is the run that an earlier recorder has used.
func (rec *recorder) known() identity {
	var known identity
	if text, err := os.ReadFile(filepath.Join(rec.where.directory, "mlflow.json")); err == nil {
		_ = json.Unmarshal(text, &known)
	}
	return known
}

// startOver forgets what was delivered: it went to a run that is not the one any more. All of it is on disk.
func (rec *recorder) startOver() {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.state.Delivered, rec.state.Params, rec.state.Complete = 0, false, false
	rec.state.Files = map[string]uploaded{}
	rec.dirty = true
}

// follow takes the run that the first pod of several has found.
func (rec *recorder) follow(ctx context.Context) error {
	if rec.server == nil {
		return errors.New("there is no portal")
	}
	known := rec.known()
	if known.RunID == "" {
		return errors.New("the first pod has no run in MLflow yet")
	}
	rec.lock.Lock()
	defer rec.lock.Unlock()
	rec.identity = &known
	return nil
}

func (rec *recorder) sendTags(ctx context.Context, runID string, tags []pair) error {
	err := rec.server.tagRun(ctx, runID, tags)
	if isRefused(err) && !gone(err) {
		rec.leaveOut("tags", err)
		return nil
	}
	return err
}

// begun is when the run's record begins: its directory's first file.
func (rec *recorder) begun() time.Time {
	if info, err := os.Stat(filepath.Join(rec.where.directory, "run.json")); err == nil {
		return info.ModTime()
	}
	return time.Now()
}

// failed notes that MLflow could not be reached, and when to try again.
func (rec *recorder) failed(err error) {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	if gone(err) {
		rec.identity = nil // connect finds or makes one again
	}
	if !rec.down {
		fmt.Printf("labrun: the record is kept on disk for now: %s\n", cut(err.Error(), 300))
	}
	rec.down = true
	rec.backoff = min(max(2*rec.backoff, time.Second), maxBackoff)
	rec.retryAt = time.Now().Add(rec.backoff)
}

// gone recognises a run that is not there any more: deleted, or MLflow's database was restored.
func gone(err error) bool {
	return isRefused(err, "RESOURCE_DOES_NOT_EXIST") ||
		isRefused(err) && strings.Contains(err.Error(), "must be in 'active' state")
}

func (rec *recorder) worked() {
	rec.lock.Lock()
	defer rec.lock.Unlock()
	if rec.down {
		fmt.Println("labrun: MLflow answers again: what was kept is delivered")
	}
	rec.down, rec.backoff = false, 0
}

func sorted(values map[string]string) []pair {
	out := make([]pair, 0, len(values))
	for key, value := range values {
		out = append(out, pair{key, value})
	}
	sort.Slice(out, func(a, b int) bool { return out[a].Key < out[b].Key })
	return out
}
