package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	tagRun         = "labcluster.run"
	tagOrigin      = "labcluster.origin"
	tagRecorded    = "labcluster.recorded"
	tagParams      = "labcluster.params"
	tagLeftOut     = "labcluster.left_out"
	originRecorder = "recorder"

	maxParams     = 1000
	maxParamValue = 6000
	maxTagValue   = 5000
	maxArgsJSON   = 1 << 20
)

var (
	optionName = regexp.MustCompile(`^--([A-Za-z][A-Za-z0-9_.-]*)$`)
	floatText  = regexp.MustCompile(`^[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+[eE])(?:[eE]?[+-]?[0-9]+)?$`)
	shells     = regexp.MustCompile(`(?:^|/)(?:ba|da|z|k)?sh$`)
	shellMeta  = regexp.MustCompile("[$`|&<>()*?]")
)

// runTags says in MLflow's own vocabulary what the portal knows of the run.
func runTags(run runFile) []pair {
	var tags []pair
	add := func(key, value string) {
		if value != "" {
			tags = append(tags, pair{key, cut(value, maxTagValue)})
		}
	}
	add(tagRun, run.ID)
	add("labcluster.user", run.User)
	add("labcluster.attempt", strconv.Itoa(max(run.Attempt, 1)))
	add("labcluster.parent", run.Parent)
	add("labcluster.directory", run.Directory)
	add("mlflow.user", run.User)
	add("mlflow.source.name", strings.Join(run.Command, " "))
	if run.Code != nil {
		add("labcluster.commit", run.Code.Commit)
		add("mlflow.source.git.commit", run.Code.Commit)
		add("mlflow.source.git.branch", run.Code.Branch)
		add("mlflow.source.git.repoURL", run.Code.Remote)
	}
	if run.Seed != nil {
		add("labcluster.seed", strconv.FormatInt(*run.Seed, 10))
	}
	return tags
}

// parameters gathers a run's parameters: --set before args.json (what the program itself says) before the command.
func parameters(run runFile, artifacts string) map[string]string {
	found := commandParameters(run.Command)
	for key, value := range argsJSON(filepath.Join(artifacts, "args.json")) {
		found[key] = value
	}
	for key, value := range run.Params {
		found[key] = value
	}
	out := make(map[string]string, len(found))
	for key, value := range found {
		if key = cleanKey(key); key != "" && len(out) < maxParams {
			out[key] = cut(asPython(value), maxParamValue)
		}
	}
	return out
}

// commandParameters reads --lr 0.1, --lr=0.1 and --flag as argparse does, from the command or from the script
// that a shell gets with -c.
func commandParameters(command []string) map[string]string {
	if len(command) >= 3 && shells.MatchString(command[0]) && strings.HasPrefix(command[1], "-") &&
		strings.HasSuffix(command[1], "c") {
		command = shellWords(command[2])
	}
	found := map[string]string{}
	for index := 0; index < len(command); index++ {
		word := command[index]
		if word == "--" {
			continue
		}
		name, value, given := strings.Cut(word, "=")
		match := optionName.FindStringSubmatch(name)
		if match == nil {
			continue
		}
		if !given {
			value = "True"
			if index+1 < len(command) && isValue(command[index+1]) {
				index++
				value = command[index]
				// --layers 64 64: what follows a number and is none is the next word of the command.
				for isNumber(value) && index+1 < len(command) && isNumber(command[index+1]) {
					index++
					value += " " + command[index]
				}
			}
		}
		found[strings.ReplaceAll(match[1], "-", "_")] = value
	}
	return found
}

// asPython writes 1e-3 as Python prints the number, 0.001: so it compares, and a program that records the parameter
// itself finds the value that it would write.
func asPython(text string) string {
	if !floatText.MatchString(text) {
		return text
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	short := strconv.FormatFloat(value, 'e', -1, 64)
	_, exponent, _ := strings.Cut(short, "e")
	if power, _ := strconv.Atoi(exponent); value != 0 && (power < -4 || power >= 16) {
		return short
	}
	plain := strconv.FormatFloat(value, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	return plain
}

// isValue tells a value, which may be a negative number, from the next option.
func isValue(word string) bool {
	return !strings.HasPrefix(word, "-") || isNumber(word)
}

func isNumber(text string) bool {
	for _, word := range strings.Fields(text) {
		if _, err := strconv.ParseFloat(word, 64); err != nil {
			return false
		}
	}
	return true
}

// shellWords splits a script as far as it is plain words; what a shell would replace is left out.
func shellWords(script string) []string {
	var words []string
	var word strings.Builder
	begun, quote := false, byte(0)
	end := func() {
		if begun {
			text := word.String()
			if shellMeta.MatchString(text) {
				text = "" // unknown: no value of an option
			}
			words = append(words, text)
		}
		word.Reset()
		begun = false
	}
	for index := 0; index < len(script); index++ {
		char := script[index]
		switch {
		case quote != 0:
			if char == quote {
				quote = 0
			} else {
				word.WriteByte(char)
			}
		case char == '\'' || char == '"':
			quote, begun = char, true
		case char == '\\' && index+1 < len(script):
			index++
			if script[index] != '\n' {
				word.WriteByte(script[index])
				begun = true
			}
		case char == ' ' || char == '\t':
			end()
		case char == '\n' || char == ';' || char == '&' || char == '|':
			end()
			words = append(words, "-") // ends the values of an option
		default:
			word.WriteByte(char)
			begun = true
		}
	}
	end()
	return words
}

// argsJSON reads what a program left of its own arguments; anything that is no object of plain values is left out.
func argsJSON(path string) map[string]string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxArgsJSON {
		return nil
	}
	text, err := os.ReadFile(path)
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err != nil || decoder.Decode(&object) != nil {
		return nil
	}
	out := map[string]string{}
	flatten("", object, out)
	return out
}

func flatten(prefix string, object map[string]any, out map[string]string) {
	for key, value := range object {
		switch typed := value.(type) {
		case map[string]any:
			flatten(prefix+key+".", typed, out)
		case string:
			out[prefix+key] = typed
		case json.Number:
			out[prefix+key] = typed.String()
		case nil:
			out[prefix+key] = "None" // what mlflow.log_params makes of Python's
		case bool:
			out[prefix+key] = map[bool]string{true: "True", false: "False"}[typed]
		default:
			if text, err := json.Marshal(value); err == nil {
				out[prefix+key] = string(text)
			}
		}
	}
}
