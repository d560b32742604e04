package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The code of a run is a capsule: JSON that names its layers, which are unpacked one over the other, each under
// its prefix, without the deleted paths. Everything is checked against the sum that the run was accepted with,
// and os.Root keeps whatever a layer says inside the folder.

const (
	codeFolder = "code"
	newFolder  = ".code.new"
	// Holds the attempt whose code is there as a whole; the other pods of a run wait for it.
	readyMark = ".code.attempt"
	// Files are made one beside the other: each costs round trips to the file server.
	writers   = 16
	smallFile = 1 << 20
)

type capsule struct {
	Version int      `json:"version"`
	Layers  []layer  `json:"layers"`
	Deleted []string `json:"deleted"`
	Patch   *string  `json:"patch"`
	Subdir  string   `json:"subdir"`
}

type layer struct {
	Sum    string `json:"sha256"`
	Prefix string `json:"prefix"`
}

// checkOut gives the run a fresh copy of its code, of which what an earlier attempt left is kept beside it.
func checkOut(run record, where location) error {
	directory, objects := where.directory, storeOf(where.directory)
	if where.rank > 0 {
		awaitCode(where)
		return nil
	}
	if text, err := os.ReadFile(filepath.Join(directory, readyMark)); err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(where.attempt) {
		return nil // a restarted node runs init containers again
	}
	text, err := objects.read(run.Code.Digest)
	if err != nil {
		return lost(err)
	}
	var code capsule
	if err := json.Unmarshal(text, &code); err != nil || code.Version != 1 {
		return fmt.Errorf("the captured code of this run is of a kind that this cluster does not know: version %d %v", code.Version, err)
	}
	if err := unpackAll(objects, code, filepath.Join(directory, newFolder), run.Code.Subdir); err != nil {
		return err
	}
	target := filepath.Join(directory, codeFolder)
	if err := setAside(target, filepath.Join(directory, readyMark)); err != nil {
		return fmt.Errorf("cannot set the code of an earlier attempt aside: %w", explain(err))
	}
	if err := os.Rename(filepath.Join(directory, newFolder), target); err != nil {
		return fmt.Errorf("cannot put the code into its place: %w", explain(err))
	}
	if code.Patch != nil {
		patch, err := objects.read(*code.Patch)
		if err != nil {
			return lost(err)
		}
		if err := replaceFile(filepath.Join(directory, "code.patch"), 0o660, false, bytes.NewReader(patch)); err != nil {
			return fmt.Errorf("cannot write code.patch: %w", explain(err))
		}
	}
	err = writeJSON(filepath.Join(directory, "code.json"), json.RawMessage(text), false)
	if err == nil {
		err = replaceFile(filepath.Join(directory, readyMark), 0o660, false, strings.NewReader(strconv.Itoa(where.attempt)+"\n"))
	}
	if err != nil {
		return fmt.Errorf("cannot write code.json: %w", explain(err))
	}
	return nil
}

// setAside keeps what an earlier attempt may have written among its code; what no attempt ran in goes.
func setAside(target, mark string) error {
	if text, err := os.ReadFile(mark); err == nil {
		err := os.Rename(target, target+".attempt-"+strings.TrimSpace(string(text)))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return os.RemoveAll(target)
}

func lost(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		var gone *fs.PathError
		if errors.As(err, &gone) {
			err = fmt.Errorf("%s", gone.Path)
		}
		return fmt.Errorf("the captured code of this run is gone: %w; labctl rerun --code current takes today's", err)
	}
	return fmt.Errorf("the captured code of this run cannot be used: %w", err)
}

func unpackAll(objects store, code capsule, target, subdir string) error {
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("cannot remove %s: %w", target, explain(err))
	}
	if err := os.Mkdir(target, 0o770); err != nil {
		return fmt.Errorf("cannot make the folder of the code: %w", explain(err))
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return fmt.Errorf("cannot open the folder of the code: %w", explain(err))
	}
	defer root.Close()
	deleted := make(map[string]bool, len(code.Deleted))
	for _, name := range code.Deleted {
		deleted[name] = true
	}
	for _, one := range code.Layers {
		if err := unpack(objects, one, root, deleted); err != nil {
			_ = os.RemoveAll(target)
			return err
		}
	}
	if subdir != "" {
		// Only ignored files were in it, or none.
		if err := root.MkdirAll(subdir, 0o770); err != nil {
			return fmt.Errorf("the captured code has no folder %s: %w", subdir, explain(err))
		}
	}
	return nil
}

func unpack(objects store, one layer, root *os.Root, deleted map[string]bool) error {
	found, err := objects.open(one.Sum)
	if err != nil {
		return lost(err)
	}
	unpackErr := unpackFrom(found, one.Prefix, root, deleted)
	// A damaged archive is told as one, whatever it looked like before its end.
	if err := found.finish(); err != nil {
		return lost(err)
	}
	return unpackErr
}

func unpackFrom(from io.Reader, prefix string, root *os.Root, deleted map[string]bool) error {
	packed, err := gzip.NewReader(from)
	if err != nil {
		return fmt.Errorf("a layer of the captured code is no archive: %w", err)
	}
	archive := tar.NewReader(packed)
	crew := newCrew()
	made := map[string]bool{".": true}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return crew.wait()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("a layer of the captured code is no archive: %w", err), crew.wait())
		}
		name := path.Clean(prefix + header.Name)
		if deleted[name] {
			continue
		}
		if err := put(archive, header, name, root, made, crew); err != nil {
			_ = crew.wait()
			return err
		}
		if crew.failed() {
			return crew.wait()
		}
	}
}

// put puts one entry where it belongs.
func put(archive *tar.Reader, header *tar.Header, name string, root *os.Root, made map[string]bool, crew *crew) error {
	if !filepath.IsLocal(name) || name == "." {
		return fmt.Errorf("the captured code names a place outside of it: %q", header.Name)
	}
	if parent := path.Dir(name); !made[parent] {
		if err := makeParents(root, parent); err != nil {
			return fmt.Errorf("cannot make the folder %s of the code: %w", parent, explain(err))
		}
		made[parent] = true
	}
	switch header.Typeflag {
	case tar.TypeReg:
		mode := fs.FileMode(0o660)
		if header.Mode&0o100 != 0 {
			mode = 0o770
		}
		if header.Size > smallFile {
			return writeFile(root, name, archive, mode)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return fmt.Errorf("a layer of the captured code is no archive: %w", err)
		}
		crew.do(func() error { return writeFile(root, name, strings.NewReader(string(text)), mode) })
		return nil
	case tar.TypeSymlink:
		if filepath.IsAbs(header.Linkname) || !filepath.IsLocal(path.Join(path.Dir(name), header.Linkname)) {
			return fmt.Errorf("the captured code has a link that leads out of it: %s to %s", name, header.Linkname)
		}
		return replace(root, name, func() error { return root.Symlink(header.Linkname, name) })
	}
	return fmt.Errorf("the captured code has something that is no file in it: %s", name)
}

// makeParents makes folders; a file or link that an earlier layer has in the place of one gives way.
func makeParents(root *os.Root, name string) error {
	err := root.MkdirAll(name, 0o770)
	if err == nil {
		return nil
	}
	for part := name; part != "."; part = path.Dir(part) {
		if info, statErr := root.Lstat(part); statErr == nil && !info.IsDir() {
			if err := root.Remove(part); err != nil {
				return err
			}
		}
	}
	return root.MkdirAll(name, 0o770)
}

func writeFile(root *os.Root, name string, from io.Reader, mode fs.FileMode) error {
	err := replace(root, name, func() error {
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, from)
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot write %s of the code: %w", name, explain(err))
	}
	return nil
}

// replace makes something in the place of what an earlier layer has there.
func replace(root *os.Root, name string, make func() error) error {
	err := make()
	if errors.Is(err, fs.ErrExist) {
		if err = root.RemoveAll(name); err == nil {
			err = make()
		}
	}
	return err
}

// crew does several things at a time and remembers the first that went wrong.
type crew struct {
	places chan struct{}
	group  sync.WaitGroup
	lock   sync.Mutex
	err    error
}

func newCrew() *crew { return &crew{places: make(chan struct{}, writers)} }

func (crew *crew) do(work func() error) {
	crew.places <- struct{}{}
	crew.group.Go(func() {
		defer func() { <-crew.places }()
		if err := work(); err != nil {
			crew.lock.Lock()
			defer crew.lock.Unlock()
			if crew.err == nil {
				crew.err = err
			}
		}
	})
}

func (crew *crew) failed() bool {
	crew.lock.Lock()
	defer crew.lock.Unlock()
	return crew.err != nil
}

func (crew *crew) wait() error {
	crew.group.Wait()
	return crew.err
}

// awaitCode waits until the first pod of the run has the code in its place.
func awaitCode(where location) {
	for turn := 0; ; turn++ {
		text, err := os.ReadFile(filepath.Join(where.directory, readyMark))
		if err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(where.attempt) {
			return
		}
		if turn == 1 {
			fmt.Println("labrun: waiting until the first pod has checked out the code")
		}
		// Who makes a file in a folder on NFS learns what others made in it.
		probe := filepath.Join(where.directory, fmt.Sprintf(".waiting-%d", where.rank))
		_ = os.WriteFile(probe, nil, 0o660)
		_ = os.Remove(probe)
		time.Sleep(min(time.Duration(turn+1)*100*time.Millisecond, 2*time.Second))
	}
}
