package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// standIn is MLflow behind the portal, as far as the recorder uses it: the same paths, answers and refusals
// (mlflow 3.17: no second value of a parameter, one of two equal metrics, at most 1000 metrics and 1 MB a batch).
type standIn struct {
	*httptest.Server
	t     *testing.T
	lock  sync.Mutex
	away  bool
	delay func(path string)
	// Called before a request is answered; true: the request is carried out and its answer lost.
	lose func(path string) bool

	experiments map[string]string
	runs        []*standInRun
	batches     []int
	requests    int
	// Names of metrics that are refused.
	badKey string
}

type standInRun struct {
	id, experiment, status string
	deleted                bool
	tags, params           map[string]string
	metrics                map[metric]int
	files                  map[string]string
	puts                   map[string]int
}

func startStandIn(t *testing.T) *standIn {
	t.Helper()
	server := &standIn{t: t, experiments: map[string]string{}}
	server.Server = httptest.NewTLSServer(server)
	t.Cleanup(server.Close)
	return server
}

// environment is what a pod gets to reach it.
func (server *standIn) environment(t *testing.T) []string {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("proof\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return []string{
		"LABCLUSTER_PORTAL=" + server.URL, "LABCLUSTER_CA=" + string(authority), "LABRUN_TOKEN_FILE=" + token,
		"LABCLUSTER_PROJECT=vision", "LABCLUSTER_RUN_ID=vision-7",
	}
}

func (server *standIn) goAway(away bool) {
	server.lock.Lock()
	defer server.lock.Unlock()
	server.away = away
}

func (server *standIn) ServeHTTP(out http.ResponseWriter, request *http.Request) {
	path, inside := strings.CutPrefix(request.URL.EscapedPath(), "/mlflow/w/vision/api/2.0/")
	server.lock.Lock()
	server.requests++
	away, delay := server.away, server.delay
	server.lock.Unlock()
	if delay != nil {
		delay(path)
	}
	body, err := io.ReadAll(request.Body)
	switch {
	case away:
		http.Error(out, "upstream away", http.StatusBadGateway)
		return
	case err != nil:
		return
	case !inside:
		http.Error(out, "no such page", http.StatusNotFound)
		return
	case request.Header.Get("Authorization") != "Bearer proof":
		http.Error(out, "who?", http.StatusUnauthorized)
		return
	}
	server.lock.Lock()
	answer, problem := server.answer(path, request, body)
	lose := server.lose != nil && server.lose(path)
	server.lock.Unlock()
	if lose {
		connection, _, _ := out.(http.Hijacker).Hijack()
		_ = connection.Close()
		return
	}
	if problem != "" {
		status := map[bool]int{true: 404, false: 400}[problem == "RESOURCE_DOES_NOT_EXIST"]
		out.WriteHeader(status)
		answer = map[string]string{"error_code": problem, "message": "refused by the stand-in"}
	}
	_ = json.NewEncoder(out).Encode(answer)
}

func (server *standIn) answer(path string, request *http.Request, body []byte) (any, string) {
	var asked struct {
		Name       string          `json:"name"`
		Experiment string          `json:"experiment_id"`
		RunID      string          `json:"run_id"`
		RunName    string          `json:"run_name"`
		Filter     string          `json:"filter"`
		Status     string          `json:"status"`
		Tags       []pair          `json:"tags"`
		Params     []pair          `json:"params"`
		Metrics    []metric        `json:"metrics"`
		IDs        json.RawMessage `json:"experiment_ids"`
	}
	if request.Method == http.MethodPost {
		if err := json.Unmarshal(body, &asked); err != nil {
			return nil, "BAD_REQUEST"
		}
	}
	find := func(id string) *standInRun {
		for _, run := range server.runs {
			if run.id == id && !run.deleted {
				return run
			}
		}
		return nil
	}
	switch {
	case path == "mlflow/experiments/get-by-name":
		id, found := server.experiments[request.URL.Query().Get("experiment_name")]
		if !found {
			return nil, "RESOURCE_DOES_NOT_EXIST"
		}
		return map[string]any{"experiment": map[string]string{"experiment_id": id, "lifecycle_stage": "active"}}, ""
	case path == "mlflow/experiments/create":
		if _, found := server.experiments[asked.Name]; found {
			return nil, "RESOURCE_ALREADY_EXISTS"
		}
		server.experiments[asked.Name] = fmt.Sprint(len(server.experiments) + 1)
		return map[string]string{"experiment_id": server.experiments[asked.Name]}, ""
	case path == "mlflow/runs/create":
		made := server.add(asked.Experiment, asked.Tags)
		return map[string]any{"run": made.view()}, ""
	case path == "mlflow/runs/search":
		found := []any{}
		for _, run := range server.runs {
			if !run.deleted && asked.Filter == fmt.Sprintf("tags.`labcluster.run` = '%s'", run.tags["labcluster.run"]) {
				found = append(found, run.view())
			}
		}
		return map[string]any{"runs": found}, ""
	case path == "mlflow/runs/get":
		if run := find(request.URL.Query().Get("run_id")); run != nil {
			return map[string]any{"run": run.view()}, ""
		}
	case path == "mlflow/runs/delete":
		if run := find(asked.RunID); run != nil {
			run.deleted = true
			return map[string]any{}, ""
		}
	case path == "mlflow/runs/update":
		if run := find(asked.RunID); run != nil {
			run.status = asked.Status
			return map[string]any{}, ""
		}
	case path == "mlflow/runs/log-batch":
		run := find(asked.RunID)
		if run == nil {
			break
		}
		if len(asked.Metrics) > 1000 || len(asked.Params) > 100 || len(asked.Tags) > 100 || len(body) > 1_000_000 {
			return nil, "INVALID_PARAMETER_VALUE"
		}
		for _, one := range asked.Metrics {
			if server.badKey != "" && one.Key == server.badKey {
				return nil, "INVALID_PARAMETER_VALUE"
			}
		}
		for _, param := range asked.Params {
			if value, found := run.params[param.Key]; found && value != param.Value {
				return nil, "INVALID_PARAMETER_VALUE"
			}
		}
		for _, one := range asked.Metrics {
			if one.Value != one.Value { // NaN is no key of a map
				one.Value = -999
			}
			run.metrics[one]++
		}
		for _, param := range asked.Params {
			run.params[param.Key] = param.Value
		}
		for _, tag := range asked.Tags {
			run.tags[tag.Key] = tag.Value
		}
		if len(asked.Metrics) > 0 {
			server.batches = append(server.batches, len(asked.Metrics))
		}
		return map[string]any{}, ""
	case strings.HasPrefix(path, "mlflow-artifacts/artifacts/"):
		for _, run := range server.runs {
			prefix := "mlflow-artifacts/artifacts/" + run.folder() + "/"
			if name, found := strings.CutPrefix(path, prefix); found && request.Method == http.MethodPut {
				run.files[name] = string(body)
				run.puts[name]++
				return map[string]any{}, ""
			}
		}
	}
	return nil, "RESOURCE_DOES_NOT_EXIST"
}

func (server *standIn) add(experiment string, tags []pair) *standInRun {
	made := &standInRun{
		id: fmt.Sprintf("r%d", len(server.runs)+1), experiment: experiment, status: "RUNNING",
		tags: map[string]string{}, params: map[string]string{}, metrics: map[metric]int{},
		files: map[string]string{}, puts: map[string]int{},
	}
	for _, tag := range tags {
		made.tags[tag.Key] = tag.Value
	}
	server.runs = append(server.runs, made)
	return made
}

func (run *standInRun) folder() string {
	return "workspaces/vision/" + run.experiment + "/" + run.id + "/artifacts"
}

func (run *standInRun) view() any {
	return map[string]any{
		"info": map[string]string{
			"run_id": run.id, "experiment_id": run.experiment, "status": run.status,
			"lifecycle_stage": "active", "artifact_uri": "mlflow-artifacts:/" + run.folder(),
		},
		"data": map[string]any{"tags": pairsOf(run.tags), "params": pairsOf(run.params)},
	}
}

func pairsOf(values map[string]string) []pair { return sorted(values) }

// only is the one run that is not deleted.
func (server *standIn) only() *standInRun {
	server.t.Helper()
	server.lock.Lock()
	defer server.lock.Unlock()
	left := slices.DeleteFunc(slices.Clone(server.runs), func(run *standInRun) bool { return run.deleted })
	if len(left) != 1 {
		server.t.Fatalf("there are %d runs", len(left))
	}
	return left[0]
}

// steps gives the steps of a metric, each once, in order.
func (run *standInRun) steps(key string) []int64 {
	var found []int64
	for one := range run.metrics {
		if one.Key == key {
			found = append(found, one.Step)
		}
	}
	slices.Sort(found)
	return found
}
