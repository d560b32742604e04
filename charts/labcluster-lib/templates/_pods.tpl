{{/*
An image reference from {repository, tag, digest, pullPolicy}. The digest decides what runs; the tag is
there for the reader of `kubectl get pods -o wide`.
*/}}
{{- define "labcluster-lib.image" -}}
{{- $digest := required (printf "image %s needs a digest: take it from the artifact store's manifest" .repository) .digest -}}
{{- $tag := .tag | default "" -}}
{{ .repository }}{{ if $tag }}:{{ $tag }}{{ end }}@{{ $digest }}
{{- end }}

{{/* The two image keys of a container: image and imagePullPolicy. */}}
{{- define "labcluster-lib.containerImage" -}}
image: {{ include "labcluster-lib.image" . | quote }}
imagePullPolicy: {{ .pullPolicy | default "IfNotPresent" }}
{{- end }}

{{/* Pod securityContext of a pod that runs as the uid given (its gid is the same number). */}}
{{- define "labcluster-lib.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
supplementalGroupsPolicy: Strict
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "labcluster-lib.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* nodeSelector and tolerations that put a pod on the management node. */}}
{{- define "labcluster-lib.onManagement" -}}
nodeSelector:
  labcluster.internal/role: management
tolerations:
  - key: node-role.kubernetes.io/control-plane
    operator: Exists
    effect: NoSchedule
{{- end }}

{{/*
Pod annotations that restart the pod when something it reads has changed:
(list <string> …): rendered ConfigMaps of the chart and checksums of Secrets it is told of.
*/}}
{{- define "labcluster-lib.checksum" -}}
labcluster.internal/checksum: {{ join "\n" . | sha256sum | quote }}
{{- end }}

{{/*
Three probes over one check, from (dict "check" <dict> "startupSeconds" 60): the check is the probe's
handler, e.g. (dict "tcpSocket" (dict "port" 636)). Start-up has its own patience, so liveness can be strict.
*/}}
{{- define "labcluster-lib.probes" -}}
startupProbe:
  {{- toYaml .check | nindent 2 }}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: {{ .startupSeconds | default 60 }}
readinessProbe:
  {{- toYaml .check | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  {{- toYaml .check | nindent 2 }}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 3
{{- end }}
