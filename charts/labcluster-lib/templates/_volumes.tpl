{{/*
A directory of one node as a volume: a static hostPath PersistentVolume and the claim bound to it, both named
after the release. From (dict "root" $ "path" "/var/lib/…" "size" "5Gi" "modes" (list "ReadWriteOnce")).
Static, because a service's state must come back to the same directory whatever happens to the release:
the volume's reclaim policy is Retain and an upgrade or a reinstallation finds the data again.
*/}}
{{- define "labcluster-lib.localVolume" -}}
{{- $name := include "labcluster-lib.name" . -}}
{{- $modes := .modes | default (list "ReadWriteOnce") -}}
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ printf "%s-%s" .root.Release.Namespace $name }}
  labels:
    {{- include "labcluster-lib.labels" . | nindent 4 }}
spec:
  capacity:
    storage: {{ .size }}
  accessModes: {{ toJson $modes }}
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef:
    apiVersion: v1
    kind: PersistentVolumeClaim
    namespace: {{ .root.Release.Namespace }}
    name: {{ $name }}
  hostPath:
    path: {{ .path }}
    type: Directory
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "labcluster-lib.metadata" . | nindent 2 }}
spec:
  accessModes: {{ toJson $modes }}
  storageClassName: ""
  volumeName: {{ printf "%s-%s" .root.Release.Namespace $name }}
  resources:
    requests:
      storage: {{ .size }}
{{- end }}
