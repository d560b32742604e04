{{/*
Dex's configuration. Dex puts environment variables into the texts of connectors: a password with a `$` is safe in one,
but not here.
*/}}
{{- define "dex.config" -}}
issuer: https://dex.{{ .Values.domain }}:{{ .Values.hostPort }}/dex
storage:
  # Not memory: it blocks for ever at the first refresh after reuseInterval. Not PostgreSQL: kubectl must not need it.
  type: kubernetes
  config:
    inCluster: true
    # This chart brings the definitions: Dex need not be allowed to make any.
    crdHandling: check
web:
  https: 0.0.0.0:5556
  tlsCert: /etc/dex/tls/tls.crt
  tlsKey: /etc/dex/tls/tls.key
  tlsMinVersion: "1.2"
  headers:
    X-Frame-Options: DENY
    X-Content-Type-Options: nosniff
    Content-Security-Policy: "default-src 'self'; script-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    Strict-Transport-Security: max-age=31536000
logger: {level: info, format: text}
frontend:
  issuer: {{ printf "%s · labcluster" .Values.clusterName | quote }}
  dir: /web
  theme: labcluster
  logoURL: theme/logo.svg
oauth2:
  grantTypes: [authorization_code, refresh_token, "urn:ietf:params:oauth:grant-type:device_code"]
  responseTypes: [code]
  # The clients are the cluster's own.
  skipApprovalScreen: true
expiry:
  deviceRequests: 10m
  idTokens: {{ .Values.tokens.idMinutes }}m
  refreshTokens:
    # A client that lost the answer to a refresh, or two of its processes at one time, may use the old one again. Short:
    # so long after a login or a refresh Dex does not ask the directory whether the member is disabled.
    reuseInterval: 10s
    validIfNotUsedFor: {{ mul .Values.tokens.idleDays 24 }}h
    absoluteLifetime: {{ mul .Values.tokens.absoluteDays 24 }}h
signer:
  type: local
  config:
    algorithm: RS256
    keysRotationPeriod: {{ mul .Values.tokens.keyDays 24 }}h
enablePasswordDB: false
connectors:
  - type: ldap
    id: ldap
    name: {{ .Values.clusterName }}
    config:
      host: openldap.{{ .Release.Namespace }}.svc:636
      rootCA: /etc/dex/ca/ca.crt
      bindDN: cn=dex,ou=services,{{ .Values.ldap.baseDn }}
      bindPW: $DEX_LDAP_PASSWORD
      usernamePrompt: User name
      userSearch:
        baseDN: ou=people,{{ .Values.ldap.baseDn }}
        scope: one
        # A disabled member has expired in 1970: he finds no login and no refresh.
        filter: "(&(objectClass=posixAccount)(!(shadowExpire=1)))"
        username: uid
        idAttr: uid
        preferredUsernameAttr: uid
        nameAttr: cn
        # Members without mail could not log in otherwise; nobody reads this claim.
        emailSuffix: {{ .Values.domain }}
      groupSearch:
        baseDN: ou=projects,{{ .Values.ldap.baseDn }}
        scope: one
        filter: "(objectClass=posixGroup)"
        userMatchers: [{userAttr: uid, groupAttr: memberUid}]
        nameAttr: cn
# One refresh token for a user and client: with one client for all places a login here would end the one there.
staticClients:
  - {id: labctl, name: labctl on the login node, public: true, redirectURIs: [/dex/device/callback]}
  - {id: labctl-laptop, name: labctl, public: true, redirectURIs: [/dex/device/callback]}
  - id: portal
    name: the portal
    secretEnv: DEX_PORTAL_SECRET
    redirectURIs: [{{ printf "https://portal.%s/login/callback" .Values.domain | quote }}]
{{- end }}
