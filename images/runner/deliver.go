package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// deliverMain brings the records of ended runs to MLflow that their own recorders could not bring: MLflow was away,
// or the node was lost. It may be called for the same run any number of times.
func deliverMain(directories []string) int {
	if len(directories) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	keepSmall()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	status := 0
	for _, directory := range directories {
		if err := deliverRun(stop, directory); err != nil {
			fmt.Printf("labrun: %s: %v\n", filepath.Base(directory), err)
			status = 1
			continue
		}
		fmt.Printf("labrun: %s: delivered\n", filepath.Base(directory))
	}
	return status
}

func deliverRun(ctx context.Context, directory string) error {
	run, err := readRunFile(directory)
	if err != nil {
		return err
	}
	where := location{directory: directory, attempt: max(run.Attempt, 1), size: max(run.Nodes, 1)}
	for rank := range where.size {
		where.rank = rank
		if _, err := os.Stat(where.file("system.jsonl")); rank > 0 && err != nil {
			continue
		}
		rec, err := openAs(where)
		if err == nil {
			err = rec.deliverLate(ctx)
			rec.close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (rec *recorder) deliverLate(ctx context.Context) error {
	first, cancel := context.WithTimeout(ctx, networkPatience)
	defer cancel()
	if err := rec.meet(first, false); err != nil {
		return err
	}
	if !rec.finish(ctx, true) {
		return errors.New("not everything could be delivered")
	}
	return nil
}
