{{/*
The rules, one sentence each. A rule names itself in brackets, so that users can look it up and tests can
tell which one refused. Context: one entry of identity.kinds, with `registry`.
*/}}
{{- define "identity.rules" -}}
# -- who
- expression: "variables.user in variables.members"
  messageExpression: >-
    "[identity/member] the label labcluster.internal/user must name a member of project " + variables.project
    + ", but " + (variables.user == "" ? "it is missing" : "'" + variables.user + "' is none")
- expression: "!(request.userInfo.username in variables.members) || variables.user == request.userInfo.username"
  messageExpression: >-
    "[identity/own-name] " + request.userInfo.username + " may run things under no name but his own"
- expression: >-
    variables.podUser == variables.user
    && object.metadata.?labels[?"labcluster.internal/project"].orValue(variables.project) == variables.project
    && {{ .template }}.?metadata.?labels[?"labcluster.internal/project"].orValue(variables.project) == variables.project
  message: "[identity/labels] the labels labcluster.internal/user and labcluster.internal/project of the object and of its pods must name the same user and this project"
- expression: >-
    oldObject == null
    || oldObject.metadata.?labels[?"labcluster.internal/user"] == object.metadata.?labels[?"labcluster.internal/user"]
  message: "[identity/labels] the label labcluster.internal/user cannot be changed"
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
# -- with which rights on the node
- expression: >-
    !variables.spec.?hostNetwork.orValue(false) && !variables.spec.?hostPID.orValue(false)
    && !variables.spec.?hostIPC.orValue(false) && variables.spec.?hostUsers.orValue(true)
    && variables.containers.all(c, c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0))
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
    && !has(variables.security.windowsOptions)
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
    && !has(variables.spec.runtimeClassName)
  message: "[node/scheduler] schedulerName and runtimeClassName must be left out"
- expression: >-
    variables.spec.?tolerations.orValue([]).all(t, t.?key.orValue("") != ""
    && !t.key.startsWith("node-role.kubernetes.io/") && !t.key.startsWith("labcluster.internal/"))
  message: "[node/tolerations] pods may not tolerate the taints of the control plane, nor all taints"
- expression: >-
    variables.spec.?priorityClassName.orValue("") == "" || variables.spec.priorityClassName.startsWith("labcluster-")
  message: "[queue/priority] only the priority classes labcluster-… may be used"
# -- what it sees
- expression: >-
    variables.spec.?volumes.orValue([]).all(v, has(v.emptyDir) || has(v.downwardAPI)
    || v.?persistentVolumeClaim.?claimName.orValue("") == "lab"
    || v.?configMap.?name.orValue("") == "labcluster-passwd")
    && variables.containers.all(c, c.?volumeDevices.orValue([]).size() == 0)
  message: "[storage/volumes] a volume may only be the claim 'lab' (the shared tree), an emptyDir or a downwardAPI: no hostPath, no nfs, no other claim, no Secret"
- expression: >-
    variables.containers.all(c, c.?envFrom.orValue([]).all(e, !has(e.secretRef))
    && c.?env.orValue([]).all(e, !e.?valueFrom.?secretKeyRef.hasValue()))
  message: "[storage/secrets] Kubernetes Secrets cannot be read by runs"
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
    || (!c.?resources.?limits[?"nvidia.com/gpu"].hasValue() && e.?value.orValue("") == "void")))
    && variables.containers.all(c, c.?resources.?limits[?"nvidia.com/gpu"].hasValue()
    || c.?env.orValue([]).exists(e, e.name == "NVIDIA_VISIBLE_DEVICES" && e.?value.orValue("") == "void"))
    && {{ .template }}.?metadata.?annotations.orValue({}).all(k, !k.startsWith("cdi.k8s.io/"))
    && variables.spec.?resourceClaims.orValue([]).size() == 0
  message: "[gpu/devices] GPUs are had by asking for nvidia.com/gpu only: NVIDIA_VISIBLE_DEVICES, CDI annotations and resource claims must be left out"
- expression: "variables.gpus <= variables.maxGpus"
  messageExpression: >-
    "[gpu/maximum] " + string(variables.gpus) + " GPUs are asked for, but project " + variables.project
    + " may use " + string(variables.maxGpus) + " at most"
{{- if .queued }}
# -- through the queue
- expression: 'object.metadata.?labels[?"kueue.x-k8s.io/queue-name"].orValue("") == "default"'
  message: "[queue/label] everything that runs must wait in the project's queue: set the label kueue.x-k8s.io/queue-name to default, and do not change it"
- expression: >-
    object.metadata.?labels.orValue({}).all(k, !k.startsWith("kueue.x-k8s.io/")
    || k in ["kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class", "kueue.x-k8s.io/max-exec-time-seconds"])
  message: "[queue/label] of Kueue's labels only queue-name, priority-class and max-exec-time-seconds may be set"
- expression: '!has(object.spec.managedBy) || object.spec.managedBy == "kubernetes.io/job-controller"'
  message: "[queue/managed-by] managedBy must be left out"
{{- end }}
{{- end }}
