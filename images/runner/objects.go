package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// store is a project's objects: files named by their SHA-256, which labctl and labrun write and nobody changes.
type store string

// storeOf gives the store of the project whose run directory this is: beside its runs/.
func storeOf(directory string) store {
	return store(filepath.Join(filepath.Dir(filepath.Dir(directory)), "capsules"))
}

func (objects store) path(sum string) (string, error) {
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("%q is not the name of an object", sum)
	}
	return filepath.Join(string(objects), sum[:2], sum), nil
}

// object is read from its beginning to its end; only then it is known to be what its name says.
type object struct {
	name   string
	file   *os.File
	reader *bufio.Reader
	sum    hash.Hash
}

var errDamaged = errors.New("its bytes are not what its name says")

func (objects store) open(sum string) (*object, error) {
	path, err := objects.path(sum)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	found := &object{name: sum, file: file, sum: sha256.New()}
	found.reader = bufio.NewReaderSize(io.TeeReader(file, found.sum), 256*1024)
	return found, nil
}

// Read is for what unpacks it.
func (found *object) Read(buffer []byte) (int, error) { return found.reader.Read(buffer) }

// finish reads what is left and says whether all of it was right.
func (found *object) finish() error {
	defer found.file.Close()
	if _, err := io.Copy(io.Discard, found.reader); err != nil {
		return err
	}
	if hex.EncodeToString(found.sum.Sum(nil)) != found.name {
		return &fs.PathError{Op: "read", Path: found.file.Name(), Err: errDamaged}
	}
	return nil
}

// read gives a small object as a whole.
func (objects store) read(sum string) ([]byte, error) {
	found, err := objects.open(sum)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(found)
	if endErr := found.finish(); err == nil {
		err = endErr
	}
	return text, err
}

// keepFile makes a file beside the objects, whose sum is known by now, one of them.
func (objects store) keepFile(file *os.File, sum string) error {
	path, err := objects.path(sum)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		if mine, err := file.Stat(); err == nil && mine.Size() == info.Size() {
			return nil
		}
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err == nil {
		if err := os.Chmod(filepath.Dir(path), 0o770|fs.ModeSetgid|fs.ModeSticky); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := file.Chmod(0o440); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
