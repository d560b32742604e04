package main

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A metric is written in one of three forms (docs/how-to/metrics.md):
//
//	{"labcluster": "metric", "step": 3, "loss": 0.1}     a line of standard output
//	labcluster: step=3 loss=0.1                          a line of standard output
//	{"step": 3, "loss": 0.1}                             a line of metrics.jsonl
//
// Whatever it came from, it goes into recorded.jsonl as {"key": "loss", "value": 0.1, "step": 3, "time": 1763745600.1}.

// sample is one line of recorded.jsonl.
type sample struct {
	Key   string  `json:"key"`
	Value number  `json:"value"`
	Step  int64   `json:"step"`
	Time  float64 `json:"time"`
}

// number is a float64 whose JSON has NaN and the infinities too, as text, as protobuf's JSON writes them.
type number float64

func (value number) MarshalJSON() ([]byte, error) {
	switch {
	case math.IsNaN(float64(value)):
		return []byte(`"NaN"`), nil
	case math.IsInf(float64(value), 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(float64(value), -1):
		return []byte(`"-Infinity"`), nil
	}
	return strconv.AppendFloat(nil, float64(value), 'g', -1, 64), nil
}

func (value *number) UnmarshalJSON(text []byte) error {
	parsed, err := strconv.ParseFloat(strings.Trim(string(text), `"`), 64)
	*value = number(parsed)
	return err
}

const maxKey = 250

var (
	stdoutText = []byte("labcluster:")
	stdoutJSON = regexp.MustCompile(`^\{\s*"labcluster"\s*:\s*"metric"`)
	bareNumber = regexp.MustCompile(`([:\[,]\s*)(-?(?:NaN|Infinity))\b`)
	badInKey   = regexp.MustCompile(`[^\pL\pN_\-. /:]`)
)

// line is what one line of a source says; nothing is kept where it says nothing.
type line struct {
	values map[string]float64
	keys   []string
	step   *int64
	time   *float64
}

// parseStdout reads a line that the command printed.
func parseStdout(text []byte) line {
	// A progress bar leaves the cursor's return before what is printed next.
	if last := bytes.LastIndexByte(bytes.TrimRight(text, "\r"), '\r'); last >= 0 {
		text = text[last+1:]
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return line{}
	}
	switch {
	case text[0] == '{' && stdoutJSON.Match(text):
		return parseJSON(text)
	case bytes.HasPrefix(text, stdoutText):
		return parsePairs(string(text[len(stdoutText):]))
	}
	return line{}
}

func parsePairs(text string) line {
	found := line{values: map[string]float64{}}
	for _, word := range strings.Fields(text) {
		key, value, given := strings.Cut(strings.TrimRight(word, ",;"), "=")
		if given {
			if parsed, err := strconv.ParseFloat(value, 64); err == nil {
				found.take(key, parsed)
			}
		}
	}
	return found
}

// parseJSON reads an object as programs write it: NaN and Infinity may stand bare, as Python writes them.
func parseJSON(text []byte) line {
	found := line{values: map[string]float64{}}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var object map[string]any
	if decoder.Decode(&object) != nil {
		object = nil
		if json.Unmarshal(bareNumber.ReplaceAll(text, []byte(`$1"$2"`)), &object) != nil {
			return line{}
		}
	}
	delete(object, "labcluster")
	found.takeAll("", object)
	slices.Sort(found.keys)
	return found
}

func (found *line) takeAll(prefix string, object map[string]any) {
	for key, value := range object {
		switch typed := value.(type) {
		case float64:
			found.take(prefix+key, typed)
		case bool:
			flag := 0.0
			if typed {
				flag = 1
			}
			found.take(prefix+key, flag)
		case string:
			switch typed {
			case "NaN", "Infinity", "-Infinity":
				parsed, _ := strconv.ParseFloat(typed, 64)
				found.take(prefix+key, parsed)
			}
		case map[string]any:
			if strings.Count(prefix, "/") < 4 {
				found.takeAll(prefix+key+"/", typed)
			}
		}
	}
}

func (found *line) take(key string, value float64) {
	switch key {
	case "step":
		if value == math.Trunc(value) && math.Abs(value) < 1<<53 {
			step := int64(value)
			found.step = &step
		}
	case "time":
		if value > 0 && value < 1e11 {
			found.time = &value
		}
	default:
		key = cleanKey(key)
		if _, twice := found.values[key]; key != "" && !twice {
			found.keys = append(found.keys, key)
		}
		if key != "" {
			found.values[key] = value
		}
	}
}

// cleanKey makes a name that MLflow takes: it becomes part of a path there.
func cleanKey(key string) string {
	key = badInKey.ReplaceAllString(strings.TrimSpace(key), "_")
	parts := strings.Split(key, "/")
	kept := parts[:0]
	for _, part := range parts {
		if part != "" && part != "." && part != ".." {
			kept = append(kept, part)
		}
	}
	key = strings.Join(kept, "/")
	if len(key) > maxKey {
		key = strings.ToValidUTF8(key[:maxKey], "")
	}
	return key
}

// samples gives a line's metrics; a metric without a step gets its own next one from `steps`.
func (found line) samples(steps map[string]int64, when time.Time) []sample {
	out := make([]sample, 0, len(found.keys))
	stamp := float64(when.UnixMilli()) / 1000
	if found.time != nil {
		stamp = math.Round(*found.time*1000) / 1000
	}
	for _, key := range found.keys {
		var step int64
		if found.step != nil {
			step = *found.step
		} else {
			var known bool
			if step, known = steps[key]; known || len(steps) < maxSteps {
				steps[key] = step + 1
			}
		}
		out = append(out, sample{key, number(found.values[key]), step, stamp})
	}
	return out
}

// A program that invents names without end must not fill the recorder's memory.
const maxSteps = 20_000
