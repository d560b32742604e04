{{/*
JSON patches, because supplementalGroups is an atomic list, which an apply configuration may not touch.
Each mutation sees what the one before it left. Context: one entry of identity.kinds.
*/}}
{{- define "identity.changes" -}}
{{- $template := .template -}}
{{- $path := .path -}}
# The user's label, on the object and on its pods.
- patchType: JSONPatch
  jsonPatch:
    expression: >-
      (has(object.metadata.labels) ? [] : [JSONPatch{op: "add", path: "/metadata/labels", value: dyn({})}])
      + [JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("labcluster.internal/user"), value: variables.user},
      JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("labcluster.internal/project"), value: variables.project}]
{{- if $path }}
- patchType: JSONPatch
  jsonPatch:
    expression: >-
      (has({{ $template }}.metadata) ? [] : [JSONPatch{op: "add", path: "{{ $path }}/metadata", value: dyn({})}])
      + ({{ $template }}.?metadata.?labels.hasValue() ? [] : [JSONPatch{op: "add", path: "{{ $path }}/metadata/labels", value: dyn({})}])
      + [JSONPatch{op: "add", path: "{{ $path }}/metadata/labels/" + jsonpatch.escapeKey("labcluster.internal/user"), value: variables.user},
      JSONPatch{op: "add", path: "{{ $path }}/metadata/labels/" + jsonpatch.escapeKey("labcluster.internal/project"), value: variables.project}]
{{- end }}
# The ids from LDAP, in place of whatever stood there.
- patchType: JSONPatch
  jsonPatch:
    expression: >-
      [JSONPatch{op: "add", path: "{{ $path }}/spec/securityContext", value: {
      "runAsUser": dyn(int(variables.ids[0])), "runAsGroup": dyn(int(variables.ids[1])), "runAsNonRoot": dyn(true),
      "supplementalGroups": dyn(variables.ids[2].split(",").map(g, int(g))), "supplementalGroupsPolicy": dyn("Strict"),
      "seccompProfile": dyn({"type": "RuntimeDefault"})}},
      JSONPatch{op: "add", path: "{{ $path }}/spec/automountServiceAccountToken", value: false},
      JSONPatch{op: "add", path: "{{ $path }}/spec/enableServiceLinks", value: false}]
{{- range $list := list "containers" "initContainers" }}
{{- $at := printf "%s.spec.?%s.orValue([])" $template $list }}
{{- $to := printf "\"%s/spec/%s/\" + string(i)" $path $list }}
# What nearly every manifest forgets, for {{ $list }}; what it says otherwise is left for the rules to refuse.
- patchType: JSONPatch
  jsonPatch:
    expression: >-
      {{ $at }}.transformList(i, c, !has(c.securityContext),
      JSONPatch{op: "add", path: {{ $to }} + "/securityContext", value: dyn({})})
- patchType: JSONPatch
  jsonPatch:
    expression: >-
      {{ $at }}.transformList(i, c, !has(c.securityContext.allowPrivilegeEscalation),
      JSONPatch{op: "add", path: {{ $to }} + "/securityContext/allowPrivilegeEscalation", value: false})
      + {{ $at }}.transformList(i, c, !has(c.securityContext.capabilities),
      JSONPatch{op: "add", path: {{ $to }} + "/securityContext/capabilities", value: dyn({"drop": ["ALL"]})})
# An image may carry NVIDIA_VISIBLE_DEVICES=all in itself: a container without GPUs is told that it has none.
- patchType: JSONPatch
  jsonPatch:
    expression: >-
      {{ $at }}.transformList(i, c, !c.?resources.?limits[?"nvidia.com/gpu"].hasValue()
      && !c.?env.orValue([]).exists(e, e.name == "NVIDIA_VISIBLE_DEVICES"),
      has(c.env)
      ? JSONPatch{op: "add", path: {{ $to }} + "/env/-", value: dyn({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})}
      : JSONPatch{op: "add", path: {{ $to }} + "/env", value: dyn([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}])})
{{- end }}
{{- end }}
