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
      + {{ $at }}.transformList(i, c, !c.?resources.?limits[?"nvidia.com/gpu"].hasValue()
        && !c.?env.orValue([]).exists(e, e.name == "NVIDIA_VISIBLE_DEVICES"),
        has(c.env)
        ? JSONPatch{op: "add", path: {{ $to }} + "/env/-", value: dyn({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})}
        : JSONPatch{op: "add", path: {{ $to }} + "/env", value: dyn([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}])})
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
