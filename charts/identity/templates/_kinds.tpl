{{/*
The kinds that carry a pod template and that a member, or a controller on his behalf, can create.
Another kind is one entry here; the rules in _rules.tpl and _changes.tpl hold for all of them.
  template  CEL: where metadata and spec of the pods are
  path      the same place as a JSON pointer
  pods      CEL: how many pods the object makes at a time
  queued    whether the object itself stands in the queue
  changed   CEL: whether an update touches what the pods will be
*/}}
{{- define "identity.kinds" -}}
- name: jobs
  group: batch
  resources: [jobs]
  template: object.spec.template
  old: oldObject.spec.template
  path: /spec/template
  pods: "object.spec.?parallelism.orValue(1)"
  queued: true
- name: pods
  group: ""
  resources: [pods, pods/ephemeralcontainers]
  template: object
  old: oldObject
  path: ""
  pods: "1"
  queued: false
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
