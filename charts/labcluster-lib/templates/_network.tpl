{{/*
Who may open connections to a component's pods, and where they may go; everything else is dropped.
  (dict "root" $ "component" "…"
        "ingress" (list (dict "ports" (list 636) "cidrs" (list "10.0.0.0/24") "apps" (list "portal")))
        "egress"  (list (dict "ports" (list 6443) "cidrs" (list "10.0.0.11/32")))
        "dns" true)
`apps` are charts of the same namespace (by app.kubernetes.io/name), `cidrs` networks outside the cluster, `projects`
(true) the pods of all projects.
An empty `egress` without dns means: the pod opens no connection at all.
*/}}
{{- define "labcluster-lib.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "labcluster-lib.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "labcluster-lib.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- range .ingress }}
    - from:
        {{- include "labcluster-lib.peers" . | trim | nindent 8 }}
      ports:
        {{- range .ports }}
        - {port: {{ . }}, protocol: TCP}
        {{- end }}
    {{- else }} []
    {{- end }}
  egress:
    {{- if .dns }}
    - to:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: kube-system
          podSelector:
            matchLabels:
              k8s-app: kube-dns
      ports:
        - {port: 53, protocol: UDP}
        - {port: 53, protocol: TCP}
    {{- end }}
    {{- range .egress }}
    - to:
        {{- include "labcluster-lib.peers" . | trim | nindent 8 }}
      ports:
        {{- range .ports }}
        - {port: {{ . }}, protocol: TCP}
        {{- end }}
    {{- end }}
    {{- if not (or .dns .egress) }} []
    {{- end }}
{{- end }}

{{/* The peers of one rule: networks, charts of this namespace, and projects. */}}
{{- define "labcluster-lib.peers" -}}
{{- if not (or .cidrs .apps .projects) }}{{ fail "a NetworkPolicy rule without cidrs, apps and projects would admit everyone" }}{{ end }}
{{- range .cidrs }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- range .apps }}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: {{ . }}
{{- end }}
{{- if .projects }}
- namespaceSelector:
    matchExpressions:
      - {key: labcluster.internal/project, operator: Exists}
{{- end }}
{{- end }}
