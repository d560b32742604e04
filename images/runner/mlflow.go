package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// mlflow speaks MLflow's REST as the portal serves it below LABCLUSTER_PORTAL/mlflow/w/<project>.
type mlflow struct {
	base  string
	page  string // the same for people's browsers
	token string // path of the file that kubelet keeps fresh
	http  *http.Client
}

// place of a run in MLflow; mlflow.json has it.
type identity struct {
	ExperimentID string `json:"experiment_id"`
	RunID        string `json:"run_id"`
	URL          string `json:"url,omitempty"`
	// Where its artifacts go, below the artifact service.
	artifacts string
}

// refused is an answer that trying again would not change.
type refused struct {
	status        int
	code, message string
}

func (err refused) Error() string {
	return fmt.Sprintf("MLflow refused (%d %s): %s", err.status, err.code, err.message)
}

func isRefused(err error, codes ...string) bool {
	var answer refused
	if !errors.As(err, &answer) {
		return false
	}
	for _, code := range codes {
		if answer.code == code {
			return true
		}
	}
	return len(codes) == 0
}

const (
	requestTimeout = 10 * time.Second
	// A slower upload than this is given up and tried again.
	slowestUpload = 1 << 20
)

// newMLflow is nil without a portal: everything is kept on disk then.
func newMLflow(portal, page, project, token, ca string) (*mlflow, error) {
	if portal == "" {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil || ca != "" {
		roots = x509.NewCertPool()
	}
	if ca != "" && !roots.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("LABCLUSTER_CA holds no certificate")
	}
	// A TLS configuration of one's own leaves HTTP/2 out, which would take more memory for nothing.
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: senders + 1,
		IdleConnTimeout:     60 * time.Second,
		WriteBufferSize:     64 << 10,
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &mlflow{
		base:  trackingURI(portal, project),
		page:  trackingURI(cmp.Or(page, portal), project),
		token: token,
		http:  &http.Client{Transport: transport, CheckRedirect: noRedirect},
	}, nil
}

func trackingURI(portal, project string) string {
	return strings.TrimRight(portal, "/") + "/mlflow/w/" + project
}

// call sends one request of the REST API, and reads its answer into `into` if that is not nil.
func (server *mlflow) call(ctx context.Context, method, path string, query url.Values, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	target := server.base + "/api/2.0/mlflow/" + path
	if query != nil {
		target += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return server.send(request, into)
}

func (server *mlflow) post(ctx context.Context, path string, value, into any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return server.call(ctx, http.MethodPost, path, nil, body, into)
}

func (server *mlflow) send(request *http.Request, into any) error {
	token, err := os.ReadFile(server.token)
	if err != nil {
		return fmt.Errorf("cannot read the pod's token: %w", explain(err))
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := server.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 8<<20))
	if err != nil {
		return err
	}
	switch {
	case answer.StatusCode < 300:
		if into != nil {
			return json.Unmarshal(text, into)
		}
		return nil
	// The proof of a pod may be checked by something that is away: 401 and 403 count as an outage, as 5xx do.
	case answer.StatusCode >= 500, answer.StatusCode < 400, answer.StatusCode == http.StatusUnauthorized,
		answer.StatusCode == http.StatusForbidden, answer.StatusCode == http.StatusTooManyRequests,
		answer.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("MLflow answered %s", answer.Status)
	}
	var problem struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &problem) != nil || problem.Code == "" {
		if answer.StatusCode != http.StatusBadRequest && answer.StatusCode != http.StatusRequestEntityTooLarge {
			// Not MLflow's own word: the portal's, while MLflow is not there.
			return fmt.Errorf("the portal answered %s", answer.Status)
		}
		problem.Message = cut(string(text), 300)
	}
	return refused{answer.StatusCode, problem.Code, cut(problem.Message, 300)}
}

type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type runAnswer struct {
	Info struct {
		RunID        string `json:"run_id"`
		ExperimentID string `json:"experiment_id"`
		ArtifactURI  string `json:"artifact_uri"`
		Stage        string `json:"lifecycle_stage"`
		Status       string `json:"status"`
	} `json:"info"`
	Data struct {
		Tags    []pair `json:"tags"`
		Params  []pair `json:"params"`
		Metrics []struct {
			Key string `json:"key"`
		} `json:"metrics"`
	} `json:"data"`
}

func (run runAnswer) tag(key string) string {
	for _, tag := range run.Data.Tags {
		if tag.Key == key {
			return tag.Value
		}
	}
	return ""
}

func (run runAnswer) identity(server *mlflow) identity {
	path := run.Info.ArtifactURI
	if uri, err := url.Parse(path); err == nil {
		path = uri.Path
	}
	return identity{
		ExperimentID: run.Info.ExperimentID,
		RunID:        run.Info.RunID,
		URL:          fmt.Sprintf("%s/#/experiments/%s/runs/%s", server.page, run.Info.ExperimentID, run.Info.RunID),
		artifacts:    strings.Trim(path, "/"),
	}
}

func (server *mlflow) get(ctx context.Context, runID string) (runAnswer, error) {
	var answer struct {
		Run runAnswer `json:"run"`
	}
	err := server.call(ctx, http.MethodGet, "runs/get", url.Values{"run_id": {runID}}, nil, &answer)
	return answer.Run, err
}

// experiment gives the id of the experiment of that name, which is made if there is none.
func (server *mlflow) experiment(ctx context.Context, name string) (string, error) {
	var found struct {
		Experiment struct {
			ID    string `json:"experiment_id"`
			Stage string `json:"lifecycle_stage"`
		} `json:"experiment"`
	}
	look := func() error {
		return server.call(ctx, http.MethodGet, "experiments/get-by-name",
			url.Values{"experiment_name": {name}}, nil, &found)
	}
	err := look()
	if isRefused(err, "RESOURCE_DOES_NOT_EXIST") {
		var made struct {
			ID string `json:"experiment_id"`
		}
		err = server.post(ctx, "experiments/create", map[string]string{"name": name}, &made)
		if err == nil {
			return made.ID, nil
		}
		if isRefused(err, "RESOURCE_ALREADY_EXISTS") { // another run of this name was quicker
			err = look()
		}
	}
	if err == nil && found.Experiment.Stage == "deleted" {
		err = server.post(ctx, "experiments/restore", map[string]string{"experiment_id": found.Experiment.ID}, nil)
	}
	return found.Experiment.ID, err
}

// named gives the runs with this tag labcluster.run, oldest first.
func (server *mlflow) named(ctx context.Context, experiment, run string) ([]runAnswer, error) {
	var answer struct {
		Runs []runAnswer `json:"runs"`
	}
	err := server.post(ctx, "runs/search", map[string]any{
		"experiment_ids": []string{experiment},
		"filter":         fmt.Sprintf("tags.`%s` = '%s'", tagRun, run),
		"order_by":       []string{"attributes.start_time ASC", "attributes.run_id ASC"},
		"max_results":    20,
	}, &answer)
	return answer.Runs, err
}

func (server *mlflow) create(
	ctx context.Context, experiment string, run runFile, started time.Time, tags []pair,
) (runAnswer, error) {
	var answer struct {
		Run runAnswer `json:"run"`
	}
	err := server.post(ctx, "runs/create", map[string]any{
		"experiment_id": experiment,
		"run_name":      run.ID,
		"start_time":    started.UnixMilli(),
		"tags":          append(tags, pair{tagOrigin, originRecorder}),
	}, &answer)
	return answer.Run, err
}

func (server *mlflow) logBatch(ctx context.Context, runID string, content map[string]any) error {
	content["run_id"] = runID
	return server.post(ctx, "runs/log-batch", content, nil)
}

func (server *mlflow) tagRun(ctx context.Context, runID string, tags []pair) error {
	return server.logBatch(ctx, runID, map[string]any{"tags": tags})
}

// upload puts one file of a run; `content` gives `size` bytes.
func (server *mlflow) upload(ctx context.Context, run identity, name string, content io.Reader, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second+time.Duration(size/slowestUpload)*time.Second)
	defer cancel()
	parts := strings.Split(run.artifacts+"/"+name, "/")
	for index, part := range parts {
		parts[index] = url.PathEscape(part)
	}
	target := server.base + "/api/2.0/mlflow-artifacts/artifacts/" + strings.Join(parts, "/")
	if size == 0 {
		content = http.NoBody
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, target, content)
	if err != nil {
		return err
	}
	request.ContentLength = size
	request.Header.Set("Content-Type", "application/octet-stream")
	return server.send(request, nil)
}

func cut(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most-3], "") + "..."
	}
	return text
}
