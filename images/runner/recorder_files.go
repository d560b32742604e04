package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// fileLimits says what is uploaded; zero: nothing.
type fileLimits struct {
	// Of one file, of all files of a run, and of stdout.log, of which the end is sent where it is larger.
	file, all, log int64
	// How many files of a run are uploaded.
	count int
}

// Files that are still being written are left for later.
const settled = 5 * time.Second

// ownFiles of the run directory go to MLflow beside the user's artifacts, under labcluster/.
var ownFiles = []string{
	"stdout.log", "result.json", "args.json", "code.json", "code.patch", "data.json", "node.json", "packages.json",
}

const ownFolder = "labcluster/"

// candidate is a file that belongs into MLflow under this name.
type candidate struct {
	name, path string
	info       fs.FileInfo
}

func (rec *recorder) candidates() []candidate {
	var found []candidate
	add := func(name, path string) {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			found = append(found, candidate{name, path, info})
		}
	}
	for _, name := range ownFiles {
		add(ownFolder+name, filepath.Join(rec.where.directory, name))
	}
	for rank := 1; rank < rec.where.size; rank++ {
		for _, ending := range []string{"log", "json", "node.json"} {
			name := fmt.Sprintf("rank-%d.%s", rank, ending)
			add(ownFolder+name, filepath.Join(rec.where.directory, name))
		}
	}
	top := filepath.Join(rec.where.directory, "artifacts")
	_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || len(found) > rec.limits.count+len(ownFiles) {
			return nil
		}
		// A link may lead anywhere; what it leads to is recorded where it is.
		if entry.Type().IsRegular() {
			if name, err := filepath.Rel(top, path); err == nil {
				if info, err := entry.Info(); err == nil {
					found = append(found, candidate{name, path, info})
				}
			}
		}
		return nil
	})
	return found
}

// uploadFiles sends what is new or has changed; `last` says that the command has ended, and nothing may wait.
func (rec *recorder) uploadFiles(ctx context.Context, last bool) error {
	if rec.limits.count == 0 || rec.identity == nil {
		return nil
	}
	var all int64
	var left []string
	for _, one := range rec.candidates() {
		rec.lock.Lock()
		before, known := rec.state.Files[one.name]
		count := len(rec.state.Files)
		rec.lock.Unlock()
		size, mtime := one.info.Size(), one.info.ModTime().UnixNano()
		reason := ""
		switch log := strings.HasSuffix(one.name, ".log") && strings.HasPrefix(one.name, ownFolder); {
		case log:
		case size > rec.limits.file:
			reason = fmt.Sprintf("%s is larger than %s", bytesText(size), bytesText(rec.limits.file))
		case all+size > rec.limits.all:
			reason = fmt.Sprintf("the run's files are more than %s", bytesText(rec.limits.all))
		case !known && count >= rec.limits.count:
			reason = fmt.Sprintf("the run has more than %d files", rec.limits.count)
		default:
			all += size
		}
		if reason != "" {
			left = append(left, one.name+": "+reason)
			continue
		}
		same := known && before.Size == size && before.MTime == mtime
		if same || !last && !rec.due(one, before, known) {
			if before.Left != "" {
				left = append(left, one.name+": "+before.Left)
			}
			continue
		}
		began := time.Now()
		entry := uploaded{Size: size, MTime: mtime}
		if err := rec.uploadOne(ctx, one); isRefused(err) && !gone(err) {
			entry.Left = err.Error()
			left = append(left, one.name+": "+entry.Left)
		} else if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) {
			continue // it was replaced in this moment: the next look finds the new one
		} else if err != nil {
			return err
		}
		rec.lock.Lock()
		rec.state.Files[one.name] = entry
		rec.dirty = true
		rec.lock.Unlock()
		rec.notBefore(one.name, time.Since(began))
		if err := rec.saveSometimes(); err != nil {
			return err
		}
	}
	if len(left) > 0 && last {
		text := fmt.Sprintf("%d files are only in %s/artifacts: %s", len(left), rec.where.directory, strings.Join(left, "; "))
		return rec.sendTags(ctx, rec.identity.RunID, []pair{{tagLeftOut, cut(text, maxTagValue)}})
	}
	return nil
}

// due says whether a file is sent while the command still runs: not while it is being written, and not again and
// again at every change of it.
func (rec *recorder) due(one candidate, before uploaded, known bool) bool {
	if time.Now().Before(rec.again[one.name]) {
		return false
	}
	if strings.HasSuffix(one.name, ".log") {
		// A log only grows: a tenth more of it, or something after a while.
		return one.info.Size() > before.Size+before.Size/10
	}
	return !known || time.Since(one.info.ModTime()) > min(settled, fileInterval)
}

// notBefore keeps a file that is written anew all the time from taking the network for itself.
func (rec *recorder) notBefore(name string, took time.Duration) {
	rec.again[name] = time.Now().Add(max(2*fileInterval, 20*took))
}

func (rec *recorder) uploadOne(ctx context.Context, one candidate) error {
	file, err := os.OpenFile(one.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	size := one.info.Size()
	var content io.Reader = io.NewSectionReader(file, 0, size)
	if strings.HasSuffix(one.name, ".log") && size > rec.limits.log {
		head := fmt.Sprintf("==== the first %d bytes are only in %s ====\n", size-rec.limits.log, one.path)
		content = io.MultiReader(strings.NewReader(head), io.NewSectionReader(file, size-rec.limits.log, rec.limits.log))
		size = int64(len(head)) + rec.limits.log
	}
	return rec.server.upload(ctx, *rec.identity, filepath.ToSlash(one.name), content, size)
}

func bytesText(count int64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if count < 1024 || unit == "GiB" {
			return fmt.Sprintf("%d %s", count, unit)
		}
		count /= 1024
	}
	return ""
}
