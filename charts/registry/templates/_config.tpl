{{/* host:port as images are named. */}}
{{- define "registry.host" -}}
{{ .Values.name }}:{{ .Values.hostPort }}
{{- end }}

{{/* docker distribution's configuration; the http secret comes by environment. */}}
{{- define "registry.config" -}}
version: 0.1
log:
  level: info
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
  cache:
    blobdescriptor: inmemory
  maintenance:
    uploadpurging:
      enabled: true
      age: 24h
      interval: 6h
      dryrun: false
http:
  addr: :5000
  tls:
    certificate: /etc/registry/tls/tls.crt
    key: /etc/registry/tls/tls.key
    minimumtls: tls1.2
  headers:
    X-Content-Type-Options: [nosniff]
auth:
  token:
    realm: https://{{ .Values.name }}:{{ .Values.tokens.hostPort }}/token
    service: {{ include "registry.host" . }}
    issuer: {{ .Values.name }}
    # This certificate alone, not the site's authority: no other service of the site may sign tokens.
    rootcertbundle: /etc/registry/tokens/tls.crt
{{- end }}

{{/* labcluster.models.settings.RegistryTokenSettings */}}
{{- define "registry.tokenSettings" -}}
{{- dict
  "registry" (include "registry.host" .)
  "issuer" .Values.name
  "key_file" "/etc/labcluster/signing/tls.key"
  "certificate_file" "/etc/labcluster/signing/tls.crt"
  "cluster_password_file" "/etc/labcluster/accounts/cluster"
  "node_password_file" "/etc/labcluster/accounts/node"
  "ldap" (dict
    "uri" (printf "ldaps://openldap.%s.svc" .Release.Namespace) "base_dn" .Values.ldap.baseDn
    "bind_dn" (printf "cn=registry,ou=services,%s" .Values.ldap.baseDn)
    "password_file" "/etc/labcluster/ldap/password" "ca_file" "/etc/labcluster/ca/ca.crt")
  "storage" "/var/lib/registry"
  | toPrettyJson }}
{{- end }}
