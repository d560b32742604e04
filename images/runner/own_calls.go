package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The command's own mlflow calls land in the run's record: they get its place and the pod's proof by MLFLOW_*.

// How long the command waits for its place in MLflow: a little longer than the recorder looks for it.
var recorderPatience = durationOf("LABRUN_RECORDER_PATIENCE", 3*time.Second)

// ownCalls gives the variables for mlflow in the command, and whether the recorder knows the run's place in MLflow.
func ownCalls(tools string) (map[string]string, bool) {
	portal := os.Getenv("LABCLUSTER_PORTAL")
	if portal == "" {
		return nil, true
	}
	project := os.Getenv("LABCLUSTER_PROJECT")
	found := map[string]string{
		"MLFLOW_TRACKING_URI": trackingURI(portal, project),
		"MLFLOW_WORKSPACE":    project,
	}
	if token, err := os.ReadFile(tokenPath()); err == nil {
		found["MLFLOW_TRACKING_TOKEN"] = strings.TrimSpace(string(token))
	}
	authority := filepath.Join(tools, "ca.crt")
	if _, err := os.Stat(authority); err == nil {
		found["MLFLOW_TRACKING_SERVER_CERT_PATH"] = authority
	}
	said := awaitRecorder(filepath.Join(tools, recorderFile))
	if said.RunID != "" {
		found["MLFLOW_EXPERIMENT_ID"] = said.ExperimentID
		found["MLFLOW_RUN_ID"] = said.RunID
		return found, true
	}
	// A run that the program makes then is told by this tag to be this run's: the recorder goes on in it.
	if tag, err := json.Marshal(map[string]string{tagRun: os.Getenv("LABCLUSTER_RUN_ID")}); err == nil {
		found["MLFLOW_RUN_CONTEXT"] = string(tag)
	}
	if said.Experiment != "" {
		found["MLFLOW_EXPERIMENT_NAME"] = said.Experiment
	}
	return found, false
}

func toolsPath() string {
	if path := os.Getenv("LABRUN_TOOLS"); path != "" { // tests
		return path
	}
	return toolsFolder
}

func awaitRecorder(path string) announcement {
	var said announcement
	for deadline := time.Now().Add(recorderPatience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &said) == nil {
			break
		}
	}
	return said
}
