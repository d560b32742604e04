{{/*
Every helper takes one of two contexts:
  - the chart's root (`.`), for a chart with one component;
  - (dict "root" $ "component" "controller"), for a chart with several.
Chart, folder and release share one name, so an object is named <release>[-<component>].
*/}}

{{- define "labcluster-lib.name" -}}
{{- $root := .root | default . -}}
{{- if .component -}}{{ printf "%s-%s" $root.Release.Name .component }}{{- else -}}{{ $root.Release.Name }}{{- end -}}
{{- end }}

{{/* What a Service or a NetworkPolicy selects by: never changes in a release's life. */}}
{{- define "labcluster-lib.selectorLabels" -}}
{{- $root := .root | default . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "labcluster-lib.labels" -}}
{{- $root := .root | default . -}}
{{ include "labcluster-lib.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | default $root.Chart.Version | quote }}
app.kubernetes.io/part-of: labcluster
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* metadata of an object: name, namespace and labels. */}}
{{- define "labcluster-lib.metadata" -}}
{{- $root := .root | default . -}}
name: {{ include "labcluster-lib.name" . }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "labcluster-lib.labels" . | nindent 2 }}
{{- end }}
