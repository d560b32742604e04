{{/*
The rules, one sentence each. A rule names itself in brackets, so that users can look it up and tests can
tell which one refused; docs/reference/admission.md lists them. Context: one entry of identity.kinds, with `registry`.
Who and in which queue is here, what a pod may be in _rules_pod.tpl.
*/}}
{{- define "identity.rules" -}}
# -- who
- expression: "variables.user in variables.members"
  messageExpression: >-
    "[identity/member] the label labcluster.internal/user must name a member of project " + variables.project
    + ", but " + (variables.user == "" ? "it is missing" : "'" + variables.user + "' is none")
- expression: "variables.platform || variables.user == variables.requester"
  messageExpression: >-
    "[identity/own-name] " + variables.requester + " may run things under no name but his own"
- expression: >-
    variables.podUser == variables.user
    && object.metadata.?labels[?"labcluster.internal/project"].orValue(variables.project) == variables.project
    && {{ .template }}.?metadata.?labels[?"labcluster.internal/project"].orValue(variables.project) == variables.project
  message: "[identity/labels] the labels labcluster.internal/user and labcluster.internal/project of the object and of its pods must name the same user and this project"
- expression: >-
    oldObject == null
    || oldObject.metadata.?labels[?"labcluster.internal/user"] == object.metadata.?labels[?"labcluster.internal/user"]
  message: "[identity/labels] the label labcluster.internal/user cannot be changed"
{{ include "identity.rules.metadata" . }}
{{ include "identity.rules.pod" . }}
# -- through the queue
- expression: >-
    {{ ternary "variables.ofJob || " "" (eq .name "pods") }}{{ .queue }}.?labels[?"kueue.x-k8s.io/queue-name"].orValue("") == "default"
  message: "[queue/label] everything that runs must wait in the project's queue: set the label kueue.x-k8s.io/queue-name to default, and do not change it"
- expression: >-
    {{ .queue }}.?labels[?"kueue.x-k8s.io/priority-class"].orValue("labcluster-normal")
    in ["labcluster-interactive", "labcluster-normal", "labcluster-low"]
  message: "[queue/priority] the label kueue.x-k8s.io/priority-class must be labcluster-interactive, labcluster-normal or labcluster-low"
{{- if eq .name "pods" }}
- expression: >-
    request.operation != "CREATE" || (variables.ofJob ? !has(object.spec.schedulingGates)
    : object.spec.?schedulingGates.orValue([]).exists(g, g.name == "kueue.x-k8s.io/admission")
    && object.spec.schedulingGates.all(g, g.name.startsWith("kueue.x-k8s.io/"))
    && object.metadata.?labels[?"kueue.x-k8s.io/managed"].orValue("") == "true")
  message: "[queue/gate] a pod waits for the queue's gate kueue.x-k8s.io/admission: leave schedulingGates out"
{{- else }}
- expression: "!has(variables.spec.schedulingGates)"
  message: "[queue/gate] the queue alone holds pods back: leave schedulingGates out"
{{- end }}
{{- if eq .name "jobs" }}
- expression: >-
    object.spec.?suspend.orValue(false) || variables.controller || (oldObject != null && !oldObject.spec.?suspend.orValue(false))
  message: "[queue/suspend] the queue starts Jobs: a Job begins suspended, and nobody else ends that"
{{- end }}
{{- if has .name (list "jobs" "cronjobs") }}
{{- $job := ternary "object.spec" "object.spec.jobTemplate.spec" (eq .name "jobs") }}
- expression: '{{ $job }}.?managedBy.orValue("kubernetes.io/job-controller") == "kubernetes.io/job-controller"'
  message: "[queue/managed-by] managedBy must be left out"
- expression: '!{{ $job }}.?manualSelector.orValue(false)'
  message: "[queue/selector] a Job selects the pods that it made, and none of others: leave manualSelector and selector out"
{{- end }}
{{- if eq .name "statefulsets" }}
- expression: object.spec.?volumeClaimTemplates.orValue([]).size() == 0
  message: "[storage/volumes] claims are the controller's: leave volumeClaimTemplates out"
{{- end }}
{{- end }}

{{/* Names, labels, annotations and owners, of which other programs believe what they say. */}}
{{- define "identity.rules.metadata" -}}
- expression: >-
    variables.platform || "labcluster:portal" in variables.asks || !object.metadata.name.startsWith("run-")
  message: "[identity/run-name] names that begin with run- are given by the portal: use labctl submit, or another name"
- expression: "variables.controller || variables.systemLabels.size() == 0"
  messageExpression: >-
    "[identity/system-labels] the label " + variables.systemLabels[0]
    + " is the system's: of kubernetes.io, k8s.io and labcluster.internal only app.kubernetes.io/…, queue-name, priority-class and max-exec-time-seconds may be set"
- expression: >-
    variables.controller || (object.metadata.?ownerReferences.orValue([]).size() == 0
    && object.metadata.?finalizers.orValue([]).all(f, f == "kueue.x-k8s.io/managed"
    || (oldObject != null && f in oldObject.metadata.?finalizers.orValue([]))))
    || (oldObject != null && object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences)
  message: "[identity/owner] ownerReferences and finalizers are the system's: leave them out"
{{- if .path }}
# Pods get the finalizers of their template.
- expression: >-
    !{{ .template }}.?metadata.?ownerReferences.hasValue() && !{{ .template }}.?metadata.?finalizers.hasValue()
    {{- with .between }}{{ $between := printf "object%s" (replace "/" "." .) }}
    && !{{ $between }}.?metadata.?ownerReferences.hasValue() && !{{ $between }}.?metadata.?finalizers.hasValue()
    {{- end }}
  message: "[identity/owner] ownerReferences and finalizers are the system's: leave them out of templates too"
{{- end }}
- expression: "variables.systemAnnotations.size() == 0"
  messageExpression: >-
    "[node/annotations] the annotation " + variables.systemAnnotations[0]
    + " may steer a container runtime, a device plugin or the queue: only plain words and those of kubectl.kubernetes.io, app.kubernetes.io, prometheus.io and labcluster.internal may be set"
{{- end }}

{{/* What the rules above go by: the first key that nobody but the system may set, or none. */}}
{{- define "identity.rules.variables" -}}
{{- $own := list "kueue.x-k8s.io/queue-name" "kueue.x-k8s.io/priority-class" "kueue.x-k8s.io/max-exec-time-seconds" "labcluster.internal/user" "labcluster.internal/project" }}
{{- if eq .name "pods" }}{{ $own = append $own "kueue.x-k8s.io/managed" }}{{ end -}}
- name: systemLabels
  expression: >-
    {{ include "identity.keys" (merge (dict "of" "labels") .) }}.filter(k,
    (k.matches("^[^/]*(kubernetes|k8s)[.]io/") ? !k.startsWith("app.kubernetes.io/")
    : k.startsWith("labcluster.internal/") ? !("labcluster:portal" in variables.asks || variables.platform)
    || k in ["labcluster.internal/user", "labcluster.internal/project"]
    : k in ["controller-uid", "job-name", "controller-revision-hash", "pod-template-hash", "pod-template-generation"])
    && !(k in {{ toJson (concat $own (.stamped | default list)) }}))
- name: systemAnnotations
  expression: >-
    {{ include "identity.keys" (merge (dict "of" "annotations") .) }}.filter(k,
    !k.matches("^([A-Za-z0-9_-]+|(kubectl[.]kubernetes[.]io|app[.]kubernetes[.]io|prometheus[.]io|labcluster[.]internal)/.*|kueue[.]x-k8s[.]io/role-hash|kubernetes[.]io/limit-ranger|deprecated[.]daemonset[.]template[.]generation)$")
    && !(variables.controller && k.matches("^(batch[.]kubernetes[.]io|deployment[.]kubernetes[.]io|kueue[.]x-k8s[.]io)/")))
{{- end }}

{{/* CEL: the keys of all labels, or annotations, on the way from the object to its pods. */}}
{{- define "identity.keys" -}}
(object.metadata.?{{ .of }}.orValue({}).map(k, k)
{{- if .path }} + {{ .template }}.?metadata.?{{ .of }}.orValue({}).map(k, k){{ end }}
{{- with .between }} + object{{ replace "/" "." . }}.?metadata.?{{ $.of }}.orValue({}).map(k, k){{ end }})
{{- end }}
