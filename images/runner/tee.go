package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// tee writes the command's output to the container's log and to stdout.log. Each of the two may fail
// without the other, and neither ever stops the command.
type tee struct {
	lock    sync.Mutex
	stdout  *os.File
	log     *os.File
	name    string
	problem string
	midLine bool
}

func newTee(where location) *tee {
	out := &tee{stdout: os.Stdout}
	if where.directory == "" {
		return out
	}
	out.name = where.log()
	log, err := os.OpenFile(out.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o660)
	if err != nil {
		out.logFailed(err)
		return out
	}
	out.log = log
	if info, err := log.Stat(); err == nil && info.Size() > 0 && info.Mode().IsRegular() {
		line := fmt.Sprintf("\n==== attempt %d, %s ====\n", where.attempt, time.Now().UTC().Format(time.RFC3339))
		if _, err := log.WriteString(line); err != nil {
			out.logFailed(err)
		}
	}
	return out
}

// copyFrom copies until every holder of the pipe's other end has closed it, or its deadline passes.
func (out *tee) copyFrom(output *os.File) {
	buffer := make([]byte, 128*1024)
	for {
		count, err := output.Read(buffer)
		if count > 0 {
			out.write(buffer[:count])
		}
		if err != nil {
			return
		}
	}
}

// finish takes what was written before the end. A process that the command left behind may hold the
// pipe open, so it gets a moment, is killed, and what it wrote is still read.
func (out *tee) finish(output *os.File, copied <-chan struct{}, kill func()) {
	select {
	case <-copied:
	case <-time.After(lastWords):
	}
	kill()
	_ = output.SetReadDeadline(time.Now().Add(lastRead))
	<-copied
	_ = output.Close()
}

func (out *tee) write(text []byte) {
	out.lock.Lock()
	defer out.lock.Unlock()
	out.writeBoth(text)
}

func (out *tee) writeBoth(text []byte) {
	if out.stdout != nil {
		if _, err := out.stdout.Write(text); err != nil {
			out.stdout = nil
		}
	}
	out.midLine = text[len(text)-1] != '\n'
	if out.log == nil {
		return
	}
	if _, err := out.log.Write(text); err != nil {
		_ = out.log.Close()
		out.log = nil
		out.logFailed(err)
	}
}

func (out *tee) logFailed(err error) {
	out.problem = explain(err).Error()
	out.say(fmt.Sprintf("%s is not complete: %s: %s; the run goes on, see `labctl logs`",
		filepath.Base(out.name), out.name, out.problem))
}

// warn puts a line of our own among the command's output.
func (out *tee) warn(message string) {
	out.lock.Lock()
	defer out.lock.Unlock()
	out.say(message)
}

func (out *tee) say(message string) {
	line := "labrun: " + message + "\n"
	if out.midLine {
		line = "\n" + line
	}
	out.writeBoth([]byte(line))
}

// abandon leaves stdout.log to a later attempt.
func (out *tee) abandon() {
	out.lock.Lock()
	defer out.lock.Unlock()
	if out.log != nil {
		_ = out.log.Close()
		out.log = nil
	}
	out.say("a later attempt of this run has begun elsewhere: this one is ended")
}

func (out *tee) close() {
	out.lock.Lock()
	defer out.lock.Unlock()
	if out.log == nil {
		return
	}
	log := out.log
	out.log = nil
	// A file system on the network may report only now that it has no room left.
	if err := log.Close(); err != nil {
		out.logFailed(err)
	}
}
