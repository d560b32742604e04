{{/*
The kinds that carry a pod template and that a member, or a controller on his behalf, can create.
Another kind is one entry here; the rules in _rules*.tpl and _changes.tpl hold for all of them.
  template  CEL: where metadata and spec of the pods are
  old       the same in the object before an update
  path      the same place as a JSON pointer
  pods      CEL: how many pods the object makes at a time
  queue     CEL: where the metadata is that carries the queue's label
  between   JSON pointer: metadata on the way to the pods, which gets the labels too
  stamped   labels that the apiserver itself puts into the template
  pvcs      CEL: whether it makes claims by itself
*/}}
{{- define "identity.kinds" -}}
- name: jobs
  group: batch
  resources: [jobs]
  template: object.spec.template
  old: oldObject.spec.template
  path: /spec/template
  pods: object.spec.?parallelism.orValue(1)
  oldPods: oldObject.spec.?parallelism.orValue(1)
  queue: object.metadata
  stamped: [controller-uid, job-name, batch.kubernetes.io/controller-uid, batch.kubernetes.io/job-name]
- name: pods
  group: ""
  resources: [pods, pods/ephemeralcontainers, pods/resize]
  template: object
  old: oldObject
  path: ""
  pods: "1"
  oldPods: "1"
  queue: object.metadata
- name: cronjobs
  group: batch
  resources: [cronjobs]
  template: object.spec.jobTemplate.spec.template
  old: oldObject.spec.jobTemplate.spec.template
  path: /spec/jobTemplate/spec/template
  pods: object.spec.jobTemplate.spec.?parallelism.orValue(1)
  oldPods: oldObject.spec.jobTemplate.spec.?parallelism.orValue(1)
  queue: object.spec.jobTemplate.?metadata
  between: /spec/jobTemplate
{{- range $name := list "deployments" "replicasets" "statefulsets" "replicationcontrollers" }}
- name: {{ $name }}
  group: {{ ternary "\"\"" "apps" (eq $name "replicationcontrollers") }}
  resources: [{{ $name }}]
  template: object.spec.template
  old: oldObject.spec.template
  path: /spec/template
  pods: object.spec.?replicas.orValue(1)
  oldPods: oldObject.spec.?replicas.orValue(1)
  queue: object.spec.template.?metadata
{{- end }}
- name: daemonsets
  group: apps
  resources: [daemonsets]
  template: object.spec.template
  old: oldObject.spec.template
  path: /spec/template
  pods: "1"
  oldPods: "1"
  queue: object.spec.template.?metadata
- name: podtemplates
  group: ""
  resources: [podtemplates]
  template: object.template
  old: oldObject.template
  path: /template
  pods: "1"
  oldPods: "1"
  queue: object.template.?metadata
{{- end }}

{{/* Where the policies hold: project namespaces, and nothing else, so that the system can never be locked out. */}}
{{- define "identity.namespaces" -}}
matchExpressions:
  - {key: labcluster.internal/project, operator: Exists}
{{- end }}

{{/*
The project's members, written by the controller from LDAP and by nobody else:
data[<user>] = "<uid> <project gid> <gid>,<gid>…", data[".max-gpus"], data[".images"].
*/}}
{{- define "identity.params" -}}
name: labcluster-members
parameterNotFoundAction: Deny
{{- end }}

{{/*
Who asks, as CEL variables: `controller` makes objects from templates that were verified when they were written;
`platform` besides may act for a member, whom the object's label names. Everybody else is a person, a service
account of a project's namespace included.
*/}}
{{- define "identity.requester" -}}
- name: requester
  expression: request.userInfo.username
- name: asks
  expression: request.userInfo.?groups.orValue([])
- name: controller
  expression: >-
    {{ range $i, $namespace := .Values.controllerNamespaces -}}
    {{ if $i }} || {{ end }}variables.requester.startsWith("system:serviceaccount:{{ $namespace }}:")
    {{- end }}
- name: platform
  expression: >-
    variables.controller || variables.requester.startsWith("system:serviceaccount:{{ .Release.Namespace }}:")
    || variables.requester in {{ toJson .Values.actFor }}
    || variables.asks.exists(g, g in ["system:masters", "kubeadm:cluster-admins"])
{{- end }}
