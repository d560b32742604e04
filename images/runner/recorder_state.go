package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// state is what a recorder must know to go on where an earlier one stopped: .recorder.json. It and the sizes in it
// are written together, so that whatever the earlier one did besides is done again, with the same result: lines are
// read again and written over what stands behind `recorded`, and MLflow keeps one of two equal metrics.
type state struct {
	Attempt int `json:"attempt"`
	// Bytes of recorded.jsonl that belong to the offsets below, and how many of them MLflow has.
	Recorded  int64 `json:"recorded"`
	Delivered int64 `json:"delivered"`
	// Bytes read of each source.
	Sources map[string]int64 `json:"sources"`
	// The next step of a metric that is given without one.
	Steps map[string]int64 `json:"steps"`
	// What was uploaded, by its name in MLflow.
	Files map[string]uploaded `json:"files"`
	// Whether MLflow has the parameters of this attempt.
	Params bool `json:"params"`
	// What MLflow would not take, and why the last of it.
	Refused     int    `json:"refused,omitempty"`
	RefusedLast string `json:"refused_last,omitempty"`
	// Whether MLflow has everything of this attempt.
	Complete bool `json:"complete"`
}

type uploaded struct {
	Size  int64 `json:"size"`
	MTime int64 `json:"mtime_ns"`
	// Why it is not there: too large, or refused.
	Left string `json:"left_out,omitempty"`
}

func emptyState() state {
	return state{Sources: map[string]int64{}, Steps: map[string]int64{}, Files: map[string]uploaded{}}
}

// file names a file of this pod's in the run directory: rank-<n>.NAME but for the first pod's.
func (where location) file(name string) string {
	if where.rank == 0 {
		return filepath.Join(where.directory, name)
	}
	if name[0] == '.' {
		return filepath.Join(where.directory, fmt.Sprintf(".rank-%d%s", where.rank, name))
	}
	return filepath.Join(where.directory, fmt.Sprintf("rank-%d.%s", where.rank, name))
}

func loadState(path string) (state, error) {
	found := emptyState()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err == nil && json.Unmarshal(text, &found) != nil {
		// Half a file cannot be; whatever it is, everything can be read again from the start.
		found = emptyState()
	}
	return found, err
}

// opened runs a change of the run directory, which labrun exec makes read-only when the command has ended, and
// leaves its mode as it was. The directory is the run's user's own, and so is this process.
func opened(directory string, change func(finished bool) error) error {
	info, err := os.Stat(directory)
	if err != nil {
		return err
	}
	if info.Mode()&0o200 != 0 {
		err = change(false)
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
		// It was made read-only just now.
		if info, err = os.Stat(directory); err != nil {
			return err
		}
	}
	if err := os.Chmod(directory, info.Mode()|0o200); err != nil {
		return err
	}
	defer os.Chmod(directory, info.Mode()&^0o222) //nolint: the next one who opens it does so too
	return change(true)
}

// keep writes one of the recorder's own files as a whole.
func keep(path string, value any) error {
	return opened(filepath.Dir(path), func(finished bool) error {
		err := writeJSON(path, value, false)
		if err == nil && finished {
			err = os.Chmod(path, 0o440)
		}
		return err
	})
}

// openRecorded opens recorded.jsonl to be written from now on, also after the run has been made read-only, and says
// whether nobody else has it open for that.
func openRecorded(path string) (*os.File, bool, error) {
	var file *os.File
	err := opened(filepath.Dir(path), func(finished bool) error {
		if info, err := os.Stat(path); err == nil && info.Mode()&0o200 == 0 {
			if err := os.Chmod(path, 0o660); err != nil {
				return err
			}
			finished = true
		}
		var err error
		file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o660)
		if err == nil && finished {
			err = os.Chmod(path, 0o440)
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	// A file system that knows no locks is no reason not to record.
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	return file, !errors.Is(err, syscall.EWOULDBLOCK), nil
}
