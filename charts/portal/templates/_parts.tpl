{{/* metadata of an object of one component, which is named after the component alone. */}}
{{- define "portal.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "labcluster-lib.labels" (dict "root" .root "component" .component) | nindent 2 }}
{{- end }}

{{/* labcluster.models.settings.PortalSettings; (dict "root" $ "ldapUser" "portal") */}}
{{- define "portal.settings" -}}
{{- $v := .root.Values -}}
{{- $ca := "/etc/labcluster/ca/ca.crt" -}}
{{- $svc := printf "%s.svc" .root.Release.Namespace -}}
{{- $limits := dict "max_time_seconds" (int $v.runs.maxTimeSeconds) -}}
{{- if $v.runs.defaultTimeSeconds }}{{ $_ := set $limits "default_time_seconds" (int $v.runs.defaultTimeSeconds) }}{{ end -}}
{{- $login := dict
  "issuer" (printf "https://dex.%s:%d/dex" $v.domain (int $v.login.port))
  "url" (printf "https://dex.%s:5556/dex" $svc) "ca_file" $ca
  "secret_file" "/etc/labcluster/login/secret" "session_key_file" "/etc/labcluster/login/session-key"
  "session_hours" (int $v.login.sessionHours)
  "api_server" (printf "https://api.%s:6443" $v.domain)
  "api_ca_file" "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt" -}}
{{- $notices := dict "webhook_hosts" $v.notices.webhookHosts -}}
{{- if $v.notices.mail.host }}{{ $_ := set $notices "mail" (dict
  "host" $v.notices.mail.host "port" (int $v.notices.mail.port) "security" $v.notices.mail.security
  "sender" $v.notices.mail.sender "domains" $v.notices.mail.domains) }}{{ end -}}
{{- with $v.notices.mail.user }}{{ $_ := set $notices.mail "user" . }}{{ $_ := set $notices.mail "password_file" "/etc/labcluster/mail/password" }}{{ end -}}
{{- $admins := list -}}
{{- range $v.admins }}{{ $admins = append $admins (dict "name" .name "uid" (int .uid)) }}{{ end -}}
{{- dict
  "cluster_name" $v.clusterName
  "domain" $v.domain
  "database" (dict "host" (printf "postgresql.%s" $svc) "password_file" "/etc/labcluster/database/password" "ca_file" $ca)
  "registry" (dict
    "host" $v.registry "url" (printf "https://registry.%s:5000" $svc) "ca_file" $ca
    "token_url" (printf "https://registry.%s:5001" $svc)
    "username_file" "/etc/labcluster/registry/username" "password_file" "/etc/labcluster/registry/password")
  "ldap" (dict
    "uri" (printf "ldaps://openldap.%s" $svc) "base_dn" $v.ldap.baseDn
    "bind_dn" (printf "cn=%s,ou=services,%s" .ldapUser $v.ldap.baseDn)
    "password_file" "/etc/labcluster/ldap/password" "ca_file" $ca)
  "jobs" (dict
    "runner_image" (include "labcluster-lib.image" $v.runnerImage)
    "ttl_seconds" (int $v.runs.keepSeconds) "image_wait_seconds" (int $v.runs.imageWaitSeconds)
    "warning_seconds" (int $v.runs.warningSeconds) "node_loss_seconds" (int $v.runs.nodeLossSeconds)
    "disk" $v.runs.disk "gang_interface" $v.runs.gangInterface
    "record" (dict "portal_url" (printf "https://portal.%s" $svc) "page_url" (printf "https://portal.%s" $v.domain) "ca_file" $ca
      "file_mib" (int $v.runs.record.fileMib) "files_mib" (int $v.runs.record.filesMib) "log_mib" (int $v.runs.record.logMib)))
  "limits" $limits
  "default_image" $v.defaultImage
  "admins" $admins
  "mlflow" (dict
    "url" (printf "https://mlflow.%s:5000" $svc) "ca_file" $ca "key_file" "/etc/labcluster/mlflow/key.pem")
  "notices" $notices
  "munge_socket" "/run/munge/munge.socket"
  "login" (eq .ldapUser "portal" | ternary $login nil)
  "public_page" $v.publicPage
  "pod_egress" $v.network.podEgress
  "storage_token_sha256" $v.storageTokenSha256
  | toPrettyJson }}
{{- end }}

{{/* Volumes that both programs read; (dict "root" $ "name" "web" "ldapUser" "portal") */}}
{{- define "portal.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
- name: config
  configMap:
    name: portal
    items: [{key: {{ .name }}.json, path: portal.json}]
- name: ca
  configMap: {name: site-ca}
- name: database
  secret:
    secretName: postgresql-passwords
    items: [{key: portal, path: password}]
- name: ldap
  secret:
    secretName: openldap-passwords
    items: [{key: {{ .ldapUser }}, path: password}]
- name: registry
  secret: {secretName: registry-credential}
- name: mlflow
  secret: {secretName: mlflow-signing}
{{- if .root.Values.notices.mail.user }}
- name: mail
  secret: {secretName: mail-credential}
{{- end }}
{{- end }}

{{- define "portal.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/labcluster/portal.json, subPath: portal.json, readOnly: true}
- {name: ca, mountPath: /etc/labcluster/ca, readOnly: true}
- {name: database, mountPath: /etc/labcluster/database, readOnly: true}
- {name: ldap, mountPath: /etc/labcluster/ldap, readOnly: true}
- {name: registry, mountPath: /etc/labcluster/registry, readOnly: true}
- {name: mlflow, mountPath: /etc/labcluster/mlflow, readOnly: true}
{{- if .Values.notices.mail.user }}
- {name: mail, mountPath: /etc/labcluster/mail, readOnly: true}
{{- end }}
{{- end }}
