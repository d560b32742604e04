package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A run may be tried again after its node was lost or it was preempted; every attempt works in the same
// folder. A node that seems lost may only be cut off from the cluster and still write: so the next attempt
// claims the folder (its number in run.json) and waits until the earlier one, which looks at the claim every
// few seconds, must have seen it and ended its command. What both share is the file system that the claim
// protects, so whoever can do damage can also see the claim.

const (
	bySuccessor = "later_attempt"
	// The exit code of an attempt that gave way (EX_TEMPFAIL); nobody waits for it any more.
	supersededExit = 75
)

// How often the claim is looked at, and how long the claimer waits: until it was looked at twice.
var (
	claimInterval = durationOf("LABRUN_CLAIM_INTERVAL", 5*time.Second)
	claimPatience = 3 * claimInterval
)

// durationOf reads a variable that only tests set.
func durationOf(name string, otherwise time.Duration) time.Duration {
	if value, err := time.ParseDuration(os.Getenv(name)); err == nil {
		return value
	}
	return otherwise
}

// location is where this pod's part of the run is kept.
type location struct {
	directory string
	attempt   int
	// Which of the run's pods this is, of how many.
	rank, size int
}

func place() location {
	number := func(name string, otherwise int) int {
		if value, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return value
		}
		return otherwise
	}
	return location{
		directory: os.Getenv("LABCLUSTER_RUN_DIR"),
		attempt:   number("LABCLUSTER_ATTEMPT", 1),
		rank:      number("NODE_RANK", 0),
		size:      number("LABCLUSTER_NODES", 1),
	}
}

// log is stdout.log, or rank-<n>.log of the other pods.
func (where location) log() string {
	if where.rank == 0 {
		return filepath.Join(where.directory, "stdout.log")
	}
	return filepath.Join(where.directory, fmt.Sprintf("rank-%d.log", where.rank))
}

// result is result.json, or rank-<n>.json of the other pods.
func (where location) result(rank int) string {
	if rank == 0 {
		return filepath.Join(where.directory, "result.json")
	}
	return filepath.Join(where.directory, fmt.Sprintf("rank-%d.json", rank))
}

// allEnded says whether every pod of this attempt has written its result. Whoever writes last sees the
// others', also over NFS: a client that makes a file in a folder learns that others changed it before.
func (where location) allEnded() bool {
	for rank := range where.size {
		var record result
		text, err := os.ReadFile(where.result(rank))
		if rank != where.rank && (err != nil || json.Unmarshal(text, &record) != nil || record.Attempt != where.attempt) {
			return false
		}
	}
	return true
}

// superseded gives a channel that is closed when a later attempt has claimed the folder.
func superseded(where location) <-chan struct{} {
	claimed := make(chan struct{})
	if where.directory == "" {
		return claimed
	}
	go func() {
		for range time.Tick(claimInterval) {
			// Opening a file asks the file server, whatever the node has cached.
			if claim, err := readRecord(where.directory); err == nil && claim.Attempt > where.attempt {
				close(claimed)
				return
			}
		}
	}()
	return claimed
}

// takeOver makes the folder of an earlier attempt this one's, and says whether that attempt may still run.
func (where location) takeOver() (bool, error) {
	claim, err := readRecord(where.directory)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && claim.Attempt > where.attempt {
		return false, fmt.Errorf("attempt %d of this run has begun already", claim.Attempt)
	}
	if err != nil || max(claim.Attempt, 1) == where.attempt {
		return false, err
	}
	makeWritable(where.directory)
	var last result
	text, err := os.ReadFile(where.result(where.rank))
	if err == nil && json.Unmarshal(text, &last) == nil {
		kept := strings.TrimSuffix(where.result(where.rank), ".json")
		return false, os.Rename(where.result(where.rank), fmt.Sprintf("%s.attempt-%d.json", kept, last.Attempt))
	}
	_, err = os.Stat(where.log())
	return err == nil, nil
}

// makeWritable undoes makeReadOnly as far as this run's own user needs it.
func makeWritable(directory string) {
	_ = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && (entry.IsDir() || entry.Type().IsRegular()) {
			if info, infoErr := entry.Info(); infoErr == nil && info.Mode()&0o200 == 0 {
				_ = os.Chmod(path, info.Mode()|0o200)
			}
		}
		return nil
	})
}

func readRecord(directory string) (record, error) {
	var run record
	text, err := os.ReadFile(filepath.Join(directory, "run.json"))
	if err == nil {
		err = json.Unmarshal(text, &run)
	}
	return run, err
}
