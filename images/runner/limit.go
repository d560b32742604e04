package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

const byTimeLimit = "time_limit"

// limit is the run's --time, counted from the command's start.
type limit struct {
	warning, reached <-chan time.Time
	message          string
}

// limitOf starts the clock: LABCLUSTER_TIME_SECONDS after now the command is killed, and
// LABCLUSTER_WARNING_SECONDS before that it gets SIGTERM, to save what it has. The portal decides both.
func limitOf() limit {
	seconds, given := wholeSeconds("LABCLUSTER_TIME_SECONDS")
	if !given {
		return limit{}
	}
	before, _ := wholeSeconds("LABCLUSTER_WARNING_SECONDS")
	before = min(before, seconds)
	return limit{
		warning: time.After(seconds - before),
		reached: time.After(seconds),
		message: fmt.Sprintf("the time limit of %v ends in %v: SIGTERM is sent now, SIGKILL then", seconds, before),
	}
}

func wholeSeconds(name string) (time.Duration, bool) {
	number, err := strconv.Atoi(os.Getenv(name))
	return time.Duration(number) * time.Second, err == nil && number > 0
}
