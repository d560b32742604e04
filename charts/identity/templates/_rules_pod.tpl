{{/* What a pod may be: under which ids, with which rights on the node, what it sees. Context as in _rules.tpl. */}}
{{- define "identity.rules.pod" -}}
# -- under which ids
- expression: >-
    variables.security.?runAsUser.orValue(-1) == variables.uid
    && variables.containers.all(c, c.?securityContext.?runAsUser.orValue(variables.uid) == variables.uid)
  messageExpression: >-
    "[identity/uid] every container must run as uid " + string(variables.uid) + ", the one of " + variables.user
    + " in LDAP: leave runAsUser out"
- expression: >-
    variables.security.?runAsGroup.orValue(-1) == variables.gid
    && variables.security.?fsGroup.orValue(variables.gid) == variables.gid
    && variables.containers.all(c, c.?securityContext.?runAsGroup.orValue(variables.gid) == variables.gid)
  messageExpression: >-
    "[identity/gid] every container must run as gid " + string(variables.gid) + ", the one of project "
    + variables.project + ": leave runAsGroup and fsGroup out"
- expression: >-
    variables.security.?supplementalGroups.orValue([]) == variables.groups
    && variables.security.?supplementalGroupsPolicy.orValue("Merge") == "Strict"
  messageExpression: >-
    "[identity/groups] the supplemental groups must be those of " + variables.user
    + " in LDAP, with supplementalGroupsPolicy Strict: leave both out"
- expression: >-
    variables.security.?runAsNonRoot.orValue(false)
    && variables.containers.all(c, c.?securityContext.?runAsNonRoot.orValue(true))
  message: "[identity/root] no container may run as root"
- expression: >-
    variables.spec.?serviceAccountName.orValue("default") == "default"
    && variables.spec.?serviceAccount.orValue("default") == "default"
    && !variables.spec.?automountServiceAccountToken.orValue(true)
  message: "[identity/service-account] pods run under no Kubernetes service account: leave serviceAccountName and automountServiceAccountToken out"
# Ephemeral containers can have no subPath, and so no passwd.
- expression: >-
    variables.spec.?volumes.orValue([]).all(v, v.name != "labcluster-passwd"
    || (v.?configMap.?name.orValue("") == "labcluster-passwd" && !v.configMap.?items.hasValue()))
    && variables.containers.all(c, c.?volumeMounts.orValue([]).all(m,
    (m.name != "labcluster-passwd" && !(m.mountPath in ["/etc/passwd", "/etc/group"]))
    || (m.name == "labcluster-passwd" && m.?readOnly.orValue(false) && m.?subPath.orValue("") in ["passwd", "group"]
    && m.mountPath == "/etc/" + m.subPath)))
    && variables.lasting.all(c, ["/etc/passwd", "/etc/group"].all(p, c.?volumeMounts.orValue([]).exists(m, m.mountPath == p)))
  message: "[identity/passwd] /etc/passwd and /etc/group are mounted from the ConfigMap labcluster-passwd in every container: leave them and the volume labcluster-passwd out"
# -- with which rights on the node
- expression: >-
    !variables.spec.?hostNetwork.orValue(false) && !variables.spec.?hostPID.orValue(false)
    && !variables.spec.?hostIPC.orValue(false) && variables.spec.?hostUsers.orValue(true)
    && variables.containers.all(c, c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0 && p.?hostIP.orValue("") == ""))
  message: "[node/namespaces] the node's network, process, IPC and user namespaces and its ports may not be used"
- expression: >-
    variables.containers.all(c, !c.?securityContext.?privileged.orValue(false)
    && !c.?securityContext.?allowPrivilegeEscalation.orValue(true))
  message: "[node/privileged] containers may neither be privileged nor gain privileges: allowPrivilegeEscalation must be false"
- expression: >-
    variables.containers.all(c, c.?securityContext.?capabilities.?add.orValue([]).size() == 0
    && c.?securityContext.?capabilities.?drop.orValue([]).exists(n, n == "ALL"))
  message: "[node/capabilities] containers may add no capability and must drop ALL"
- expression: >-
    variables.security.?seccompProfile.?type.orValue("") == "RuntimeDefault"
    && !has(variables.security.sysctls) && !has(variables.security.seLinuxOptions)
    && !has(variables.security.windowsOptions) && !has(variables.security.seLinuxChangePolicy)
    && variables.security.?appArmorProfile.?type.orValue("RuntimeDefault") == "RuntimeDefault"
    && variables.containers.all(c, c.?securityContext.?seccompProfile.?type.orValue("RuntimeDefault") == "RuntimeDefault"
    && c.?securityContext.?appArmorProfile.?type.orValue("RuntimeDefault") == "RuntimeDefault"
    && c.?securityContext.?procMount.orValue("Default") == "Default"
    && !c.?securityContext.?seLinuxOptions.hasValue() && !c.?securityContext.?windowsOptions.hasValue())
  message: "[node/confinement] seccomp, AppArmor, SELinux, sysctls and /proc must be left as they are"
- expression: >-
    !has(variables.spec.nodeName) || (oldObject != null && {{ .old }}.?spec.?nodeName.orValue("") == variables.spec.nodeName)
  message: "[node/name] the scheduler chooses the node: leave nodeName out"
- expression: >-
    variables.spec.?schedulerName.orValue("default-scheduler") == "default-scheduler"
    && !has(variables.spec.runtimeClassName) && !has(variables.spec.overhead)
    && !has(variables.spec.workloadRef) && !has(variables.spec.schedulingGroup)
    && variables.spec.?os.?name.orValue("linux") == "linux"
  message: "[node/scheduler] schedulerName, schedulingGroup, runtimeClassName, overhead and os must be left out"
- expression: >-
    variables.spec.?tolerations.orValue([]).all(t, t.?key.orValue("") != ""
    && !t.key.startsWith("node-role.kubernetes.io/") && !t.key.startsWith("labcluster.internal/")
    && (!t.key.startsWith("node.kubernetes.io/")
    || t.key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/memory-pressure"]))
  message: "[node/tolerations] pods may not tolerate the taints of the control plane or of nodes that take no work, nor all taints"
- expression: >-
    [{{ range $i, $kind := list "podAffinity" "podAntiAffinity" }}{{ if $i }}, {{ end -}}
    variables.spec.?affinity.?{{ $kind }}.?requiredDuringSchedulingIgnoredDuringExecution.orValue([]).map(t, t),
    variables.spec.?affinity.?{{ $kind }}.?preferredDuringSchedulingIgnoredDuringExecution.orValue([]).map(t, t.podAffinityTerm)
    {{- end }}].all(terms, terms.all(t, !has(t.namespaces) && !has(t.namespaceSelector)))
  message: "[node/affinity] a pod may be near to or far from pods of its own project only: leave namespaces and namespaceSelector out"
- expression: >-
    variables.containers.all(c, {{ range $i, $handler := list "livenessProbe" "readinessProbe" "startupProbe" "lifecycle.?postStart" "lifecycle.?preStop" }}
    {{- if $i }} && {{ end }}!c.?{{ $handler }}.?httpGet.?host.hasValue() && !c.?{{ $handler }}.?tcpSocket.?host.hasValue()
    {{- end }})
  message: "[node/probes] the node asks probes and hooks of the pod itself only: leave host out"
- expression: variables.spec.?terminationGracePeriodSeconds.orValue(30) <= 3600
  message: "[queue/grace] a pod that must go has an hour at most: terminationGracePeriodSeconds may be 3600"
- expression: >-
    variables.spec.?priorityClassName.orValue("") == "" || variables.spec.priorityClassName.startsWith("labcluster-")
  message: "[queue/priority] only the priority classes labcluster-… may be used"
# -- what it sees
# A source of a projected volume is one thing only: Kubernetes itself refuses a token with a Secret beside it.
- expression: >-
    variables.spec.?volumes.orValue([]).all(v, has(v.emptyDir) || has(v.downwardAPI)
    || v.?persistentVolumeClaim.?claimName.orValue("") == "lab"
    || v.?configMap.?name.orValue("") == "labcluster-passwd"
    || (v.?projected.?sources.orValue([]).size() == 1
    && v.projected.sources[0].?serviceAccountToken.?audience.orValue("") == "labcluster"))
    && variables.containers.all(c, c.?volumeDevices.orValue([]).size() == 0)
  message: "[storage/volumes] a volume may only be the claim 'lab' (the shared tree), an emptyDir, a downwardAPI or the pod's own token for the audience labcluster: no hostPath, no nfs, no other claim, no Secret"
# kubelet walks a subPath as root, past directories that its user cannot enter.
- expression: >-
    variables.containers.all(c, c.?volumeMounts.orValue([]).all(m, (!has(m.subPath) && !has(m.subPathExpr))
    || variables.spec.?volumes.orValue([]).all(v, v.name != m.name || !has(v.persistentVolumeClaim))))
  message: "[storage/sub-path] the shared tree is mounted as a whole: leave subPath and subPathExpr out"
- expression: >-
    variables.containers.all(c, c.?envFrom.orValue([]).size() == 0
    && c.?env.orValue([]).all(e, !e.?valueFrom.?secretKeyRef.hasValue() && !e.?valueFrom.?configMapKeyRef.hasValue()))
    && variables.spec.?imagePullSecrets.orValue([]).size() == 0
  message: "[storage/secrets] Kubernetes Secrets and ConfigMaps cannot be read by runs: leave envFrom, secretKeyRef, configMapKeyRef and imagePullSecrets out"
- expression: >-
    variables.containers.all(c, c.image.startsWith("{{ .registry }}/common/")
    || c.image.startsWith("{{ .registry }}/" + variables.project + "/")
    || c.image.startsWith("{{ .registry }}/labcluster/runner@") || c.image.startsWith("{{ .registry }}/labcluster/runner:")
    || variables.images.exists(i, c.image == i || c.image.startsWith(i + ":") || c.image.startsWith(i + "@") || c.image.startsWith(i + "/")))
  messageExpression: >-
    "[image/registry] images must come from {{ .registry }}/common/ or {{ .registry }}/" + variables.project + "/"
# -- which GPUs
- expression: >-
    variables.containers.all(c, c.?env.orValue([]).all(e, e.name != "NVIDIA_VISIBLE_DEVICES"
    || (!{{ include "identity.hasGpu" "c" }} && e.?value.orValue("") == "void")))
    && variables.containers.all(c, {{ include "identity.hasGpu" "c" }}
    || c.?env.orValue([]).exists(e, e.name == "NVIDIA_VISIBLE_DEVICES" && e.?value.orValue("") == "void"))
    && variables.containers.all(c, c.?env.orValue([]).all(e, !e.name.matches("^NVIDIA_(IMEX_CHANNELS|MIG_|GDS|MOFED|GDRCOPY|NVSWITCH|FABRIC)")))
    && {{ .template }}.?metadata.?annotations.orValue({}).all(k, !k.startsWith("cdi.k8s.io/"))
    && variables.spec.?resourceClaims.orValue([]).size() == 0
  message: "[gpu/devices] GPUs are had by asking for nvidia.com/gpu only: NVIDIA_VISIBLE_DEVICES and its like, CDI annotations and resource claims must be left out"
- expression: >-
    !has(variables.spec.resources) && variables.containers.all(c, c.?resources.?claims.orValue([]).size() == 0
    && [c.?resources.?limits.orValue({}), c.?resources.?requests.orValue({})].all(r,
    r.all(k, k in ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"])))
  message: "[gpu/resources] containers ask for cpu, memory, ephemeral-storage and nvidia.com/gpu, each for itself: the queue counts nothing else"
- expression: "variables.gpus <= variables.maxGpus"
  messageExpression: >-
    "[gpu/maximum] " + string(variables.gpus) + " GPUs are asked for, but project " + variables.project
    + " may use " + string(variables.maxGpus) + " at most"
{{- end }}
