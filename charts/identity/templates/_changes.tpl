{{/*
One JSON patch: a patch, because supplementalGroups is an atomic list, which an apply configuration may not touch;
and one, because each costs the apiserver a copy of the object. It is a sum of lists of operations, each of which
is empty where there is nothing to do. Context: one entry of identity.kinds.
*/}}
{{- define "identity.changes" -}}
{{- $template := .template -}}
{{- $path := .path -}}
- patchType: JSONPatch
  jsonPatch:
    expression: |-
      // The user's label, on the object and on its pods.
      {{- include "identity.labels" (dict "at" "object" "path" "") | nindent 6 }}
      {{- with .between }}
      {{- $between := printf "object%s" (replace "/" "." .) }}
      + (has({{ $between }}.metadata) ? [] : [JSONPatch{op: "add", path: "{{ . }}/metadata", value: dyn({})}])
      + {{- include "identity.labels" (dict "at" $between "path" .) | nindent 6 }}
      {{- end }}
      {{- if $path }}
      + (has({{ $template }}.metadata) ? [] : [JSONPatch{op: "add", path: "{{ $path }}/metadata", value: dyn({})}])
      + {{- include "identity.labels" (dict "at" $template "path" $path) | nindent 6 }}
      {{- end }}
      // The ids from LDAP, in place of whatever stood there.
      + [
        JSONPatch{op: "add", path: "{{ $path }}/spec/securityContext", value: {
          "runAsUser": dyn(int(variables.ids[0])),
          "runAsGroup": dyn(int(variables.ids[1])),
          "supplementalGroups": dyn(variables.ids[2].split(",").map(g, int(g))),
          "supplementalGroupsPolicy": dyn("Strict"),
          "runAsNonRoot": dyn(true),
          "seccompProfile": dyn({"type": "RuntimeDefault"})
        }},
        JSONPatch{op: "add", path: "{{ $path }}/spec/automountServiceAccountToken", value: false},
        JSONPatch{op: "add", path: "{{ $path }}/spec/enableServiceLinks", value: false}
      ]
      {{- if eq .name "jobs" }}
      // The queue starts it: also while Kueue, which would say so too, cannot be asked.
      + [JSONPatch{op: "add", path: "/spec/suspend", value: true}]
      {{- else if eq .name "pods" }}
      // The queue lets it go, unless it is a queued Job's: also while Kueue, which would say so too, cannot be asked.
      + (variables.ofJob || object.spec.?schedulingGates.orValue([]).exists(g, g.name == "kueue.x-k8s.io/admission") ? []
        : has(object.spec.schedulingGates)
        ? [JSONPatch{op: "add", path: "/spec/schedulingGates/-", value: {"name": "kueue.x-k8s.io/admission"}}]
        : [JSONPatch{op: "add", path: "/spec/schedulingGates", value: [{"name": "kueue.x-k8s.io/admission"}]}])
      + (variables.ofJob ? []
        : [JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("kueue.x-k8s.io/managed"), value: "true"}])
      {{- end }}
      // Names for the ids: whoami, getpass and ssh work in any image.
      + ({{ $template }}.spec.?volumes.orValue([]).exists(v, v.name == "labcluster-passwd") ? []
        : has({{ $template }}.spec.volumes)
        ? [JSONPatch{op: "add", path: "{{ $path }}/spec/volumes/-", value: {{ include "identity.passwd.volume" . }}}]
        : [JSONPatch{op: "add", path: "{{ $path }}/spec/volumes", value: dyn([{{ include "identity.passwd.volume" . }}])}])
      {{- range $list := list "containers" "initContainers" }}
      {{- $at := printf "%s.spec.?%s.orValue([])" $template $list }}
      {{- $to := printf "\"%s/spec/%s/\" + string(i)" $path $list }}
      // What nearly every manifest forgets, for {{ $list }}; what it says otherwise is left for the rules to refuse.
      + {{ $at }}.transformList(i, c, !has(c.securityContext),
        JSONPatch{op: "add", path: {{ $to }} + "/securityContext", value: {
          "allowPrivilegeEscalation": dyn(false), "capabilities": dyn({"drop": ["ALL"]})
        }})
      + {{ $at }}.transformList(i, c, has(c.securityContext) && !has(c.securityContext.allowPrivilegeEscalation),
        JSONPatch{op: "add", path: {{ $to }} + "/securityContext/allowPrivilegeEscalation", value: false})
      + {{ $at }}.transformList(i, c, has(c.securityContext) && !has(c.securityContext.capabilities),
        JSONPatch{op: "add", path: {{ $to }} + "/securityContext/capabilities", value: dyn({"drop": ["ALL"]})})
      // An image may carry NVIDIA_VISIBLE_DEVICES=all in itself: a container without GPUs is told that it has none.
      + {{ $at }}.transformList(i, c, !{{ include "identity.hasGpu" "c" }}
        && !c.?env.orValue([]).exists(e, e.name == "NVIDIA_VISIBLE_DEVICES"),
        has(c.env)
        ? JSONPatch{op: "add", path: {{ $to }} + "/env/-", value: dyn({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})}
        : JSONPatch{op: "add", path: {{ $to }} + "/env", value: dyn([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}])})
      + {{ $at }}.transformList(i, c, !has(c.volumeMounts),
        JSONPatch{op: "add", path: {{ $to }} + "/volumeMounts", value: dyn([
          {{ include "identity.passwd.mount" "passwd" }}, {{ include "identity.passwd.mount" "group" }}
        ])})
      {{- range $file := list "passwd" "group" }}
      + {{ $at }}.transformList(i, c, has(c.volumeMounts) && !c.volumeMounts.exists(m, m.mountPath == "/etc/{{ $file }}"),
        JSONPatch{op: "add", path: {{ $to }} + "/volumeMounts/-", value: {{ include "identity.passwd.mount" $file }}})
      {{- end }}
      {{- end }}
{{- end }}

{{/* Whose it is, at the metadata of `at`, which is there. */}}
{{- define "identity.labels" -}}
({{ .at }}.?metadata.?labels.hasValue() ? [] : [JSONPatch{op: "add", path: "{{ .path }}/metadata/labels", value: dyn({})}])
+ [
  JSONPatch{op: "add", path: "{{ .path }}/metadata/labels/" + jsonpatch.escapeKey("labcluster.internal/user"), value: variables.user},
  JSONPatch{op: "add", path: "{{ .path }}/metadata/labels/" + jsonpatch.escapeKey("labcluster.internal/project"), value: variables.project}
]
{{- end }}

{{- define "identity.passwd.volume" -}}
dyn({"name": dyn("labcluster-passwd"), "configMap": dyn({"name": "labcluster-passwd"})})
{{- end }}

{{- define "identity.passwd.mount" -}}
dyn({"name": dyn("labcluster-passwd"), "mountPath": dyn("/etc/{{ . }}"), "subPath": dyn("{{ . }}"), "readOnly": dyn(true)})
{{- end }}

{{/* CEL: whether a container asks for GPUs; to ask for 0 is not to ask. */}}
{{- define "identity.hasGpu" -}}
(quantity({{ . }}.?resources.?limits[?"nvidia.com/gpu"].orValue("0")).asInteger() > 0)
{{- end }}

{{/*
CEL: whether the pod was made by the Job controller from a Job, which stood in the queue itself. Nobody else may make a
pod with an owner, so that later its owner tells.
*/}}
{{- define "identity.ofJob" -}}
(request.operation == "CREATE" ? request.userInfo.username == "system:serviceaccount:kube-system:job-controller" : true)
&& (request.operation == "CREATE" ? object : oldObject).metadata.?ownerReferences.orValue([])
.exists(o, o.apiVersion == "batch/v1" && o.kind == "Job" && o.?controller.orValue(false))
{{- end }}
