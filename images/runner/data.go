package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a run reads is told apart by a manifest of each of its data directories: one line a file, sorted by path,
// kept as an object of the project. A file whose size and time are those of the user's last manifest is not read
// again. The digest is over paths, sizes and sums only, so that a copy of the same files has the same.

const (
	// Looks at folders and files are mostly waiting for the file server.
	lookers = 32
	// A file that changed so shortly before it was read may change once more without a later time.
	racy             = 2 * time.Second
	progressInterval = 5 * time.Second
)

type entry struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime_ns"`
	Sum   string `json:"sha256"`
}

// dataset is an item of data.json.
type dataset struct {
	Path     string  `json:"path"`
	Digest   string  `json:"digest"`
	Manifest string  `json:"manifest"`
	Files    int     `json:"files"`
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"`
}

// recordData writes data.json, and the manifests that it names.
func recordData(run record, where location) error {
	if len(run.Data) == 0 || where.rank > 0 {
		return nil
	}
	found := make([]dataset, 0, len(run.Data))
	for _, folder := range run.Data {
		one, err := manifest(folder, storeOf(where.directory), cacheOf(run.User, folder))
		if err != nil {
			return fmt.Errorf("--data %s: %w", folder, err)
		}
		fmt.Printf("labrun: %s is %s: %d files, %s, in %.1f s\n", folder, one.Digest[:12], one.Files, size(one.Bytes), one.Seconds)
		found = append(found, one)
	}
	if err := writeJSON(filepath.Join(where.directory, "data.json"), found, false); err != nil {
		return fmt.Errorf("cannot write data.json: %w", explain(err))
	}
	return nil
}

// cacheOf is where a user's last manifest of a folder is; "" if there is no home.
func cacheOf(user, folder string) string {
	base := os.Getenv("LABRUN_CACHE") // only tests set it
	if base == "" {
		base = filepath.Join("/lab/home", user, ".cache")
	}
	name := sha256.Sum256([]byte(folder))
	return filepath.Join(base, "labcluster", "data", hex.EncodeToString(name[:])+".jsonl")
}

func manifest(folder string, objects store, cache string) (dataset, error) {
	began := time.Now()
	real, err := filepath.EvalSymlinks(folder)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(real); err == nil && !info.IsDir() {
			err = errors.New("it is no directory")
		}
	}
	if err != nil {
		return dataset{}, fmt.Errorf("the node cannot read it: %w", explain(err))
	}
	scan := scan{root: real, began: began, last: readManifest(cache)}
	entries, err := scan.entries()
	if err != nil {
		return dataset{}, err
	}
	one := dataset{Path: folder, Files: len(entries)}
	for _, found := range entries {
		one.Bytes += found.Size
	}
	if one.Digest, one.Manifest, err = keepManifest(entries, objects, cache); err != nil {
		return dataset{}, fmt.Errorf("its manifest cannot be kept in %s: %w", objects, explain(err))
	}
	one.Seconds = time.Since(began).Round(time.Millisecond).Seconds()
	return one, nil
}

// readManifest gives the last manifest, sorted; one that is gone or damaged only costs time.
func readManifest(path string) []entry {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	var entries []entry
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 64*1024), 1<<20)
	for lines.Scan() {
		var one entry
		if json.Unmarshal(lines.Bytes(), &one) != nil {
			return nil
		}
		entries = append(entries, one)
	}
	if !slices.IsSortedFunc(entries, byPath) {
		return nil
	}
	return entries
}

func byPath(a, b entry) int { return cmp.Compare(a.Path, b.Path) }

// scan is one look at a folder.
type scan struct {
	root  string
	began time.Time
	last  []entry

	lock    sync.Mutex
	found   []entry
	err     error
	folders sync.WaitGroup
	places  chan struct{}

	files, bytes atomic.Int64
}

// entries are all files, sorted by path.
func (scan *scan) entries() ([]entry, error) {
	done := make(chan struct{})
	defer close(done)
	go scan.tell(done)
	scan.places = make(chan struct{}, lookers)
	scan.folders.Add(1)
	scan.look(".")
	scan.folders.Wait()
	if scan.err != nil {
		return nil, scan.err
	}
	slices.SortFunc(scan.found, byPath)
	return scan.found, scan.hashAll()
}

func (scan *scan) fail(err error) {
	scan.lock.Lock()
	defer scan.lock.Unlock()
	if scan.err == nil {
		scan.err = err
	}
}

// look reads a folder, and those within it beside it as far as there are places.
func (scan *scan) look(folder string) {
	defer scan.folders.Done()
	items, err := os.ReadDir(filepath.Join(scan.root, folder))
	if err != nil {
		scan.fail(fmt.Errorf("cannot read the folder %s: %w", folder, explain(err)))
		return
	}
	var here []entry
	for _, item := range items {
		name := filepath.Join(folder, item.Name())
		if item.IsDir() {
			scan.folders.Add(1)
			select {
			case scan.places <- struct{}{}:
				go func() {
					defer func() { <-scan.places }()
					scan.look(name)
				}()
			default:
				scan.look(name)
			}
			continue
		}
		one, err := scan.entry(name, item)
		if err != nil {
			scan.fail(fmt.Errorf("cannot look at %s: %w", name, explain(err)))
			return
		}
		if one != nil {
			here = append(here, *one)
		}
	}
	scan.lock.Lock()
	defer scan.lock.Unlock()
	scan.found = append(scan.found, here...)
}

// entry is a file as it is now; of a link to a file that file, of any other link what it says.
func (scan *scan) entry(name string, item fs.DirEntry) (*entry, error) {
	full := filepath.Join(scan.root, name)
	info, err := item.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Stat(full)
		if err != nil || !target.Mode().IsRegular() {
			text, err := os.Readlink(full)
			sum := sha256.Sum256([]byte("link to " + text))
			return &entry{Path: name, Sum: hex.EncodeToString(sum[:])}, err
		}
		info = target
	}
	if !info.Mode().IsRegular() {
		return nil, nil
	}
	return &entry{Path: name, Size: info.Size(), Mtime: info.ModTime().UnixNano()}, nil
}

// hashAll completes the entries that have no sum, from the last manifest or from their bytes.
func (scan *scan) hashAll() error {
	var todo []*entry
	for index := range scan.found {
		one := &scan.found[index]
		if one.Sum != "" {
			continue
		}
		place, known := slices.BinarySearchFunc(scan.last, *one, byPath)
		if known && scan.last[place].Size == one.Size && scan.last[place].Mtime == one.Mtime {
			one.Sum = scan.last[place].Sum
			continue
		}
		todo = append(todo, one)
	}
	scan.last = nil
	work := make(chan *entry)
	var group sync.WaitGroup
	for range min(len(todo), max(8, 2*runtime.GOMAXPROCS(0))) {
		group.Go(func() {
			buffer := make([]byte, 512*1024)
			for one := range work {
				if err := scan.hash(one, buffer); err != nil {
					scan.fail(fmt.Errorf("cannot read %s: %w", one.Path, explain(err)))
				}
			}
		})
	}
	for _, one := range todo {
		if scan.broken() {
			break
		}
		work <- one
	}
	close(work)
	group.Wait()
	return scan.err
}

func (scan *scan) broken() bool {
	scan.lock.Lock()
	defer scan.lock.Unlock()
	return scan.err != nil
}

func (scan *scan) hash(one *entry, buffer []byte) error {
	file, err := os.Open(filepath.Join(scan.root, one.Path))
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	count := int64(0)
	for {
		length, err := file.Read(buffer)
		sum.Write(buffer[:length])
		count += int64(length)
		scan.bytes.Add(int64(length))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	one.Sum = hex.EncodeToString(sum.Sum(nil))
	info, err := file.Stat()
	if err != nil {
		return err
	}
	changed := count != one.Size || info.ModTime().UnixNano() != one.Mtime
	one.Size = count
	if changed || scan.began.Sub(info.ModTime()) < racy {
		one.Mtime = 0 // nobody may take this sum for a later state of the file
	}
	scan.files.Add(1)
	return nil
}

// tell says how far it is, for as long as it lasts.
func (scan *scan) tell(done <-chan struct{}) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			read := scan.bytes.Load()
			fmt.Printf("labrun: hashing %s: %d files, %s so far, %s/s\n", scan.root, scan.files.Load(), size(read),
				size(int64(float64(read)/time.Since(scan.began).Seconds())))
		}
	}
}

// keepManifest writes it as an object, and for the user's next run into his cache if he has one.
func keepManifest(entries []entry, objects store, cache string) (digest, sum string, err error) {
	file, err := os.CreateTemp(string(objects), ".new-*")
	if err != nil {
		return "", "", err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	content, whole := sha256.New(), sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(file, whole), 256*1024)
	lines := json.NewEncoder(buffered)
	lines.SetEscapeHTML(false)
	for _, one := range entries {
		fmt.Fprintf(content, "%s\x00%d\x00%s\n", one.Path, one.Size, one.Sum)
		if err := lines.Encode(one); err != nil {
			return "", "", err
		}
	}
	if err := buffered.Flush(); err != nil {
		return "", "", err
	}
	digest, sum = hex.EncodeToString(content.Sum(nil)), hex.EncodeToString(whole.Sum(nil))
	if err := copyTo(file, cache); err != nil {
		fmt.Printf("labrun: the next run reads all files again: %s: %v\n", cache, explain(err))
	}
	return digest, sum, objects.keepFile(file, sum)
}

func copyTo(file *os.File, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return replaceFile(path, 0o600, false, file)
}

// size is a number of bytes for people.
func size(count int64) string {
	value, units := float64(count), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for value >= 1024 && len(units) > 1 {
		value, units = value/1024, units[1:]
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + units[0]
}
