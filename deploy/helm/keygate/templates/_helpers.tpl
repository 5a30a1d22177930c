{{- define "keygate.name" -}}
{{- .Values.nameOverride | default .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "keygate.selector" -}}
app.kubernetes.io/name: keygate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keygate.labels" -}}
{{ include "keygate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "keygate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "keygate.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "keygate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Not empty if the key store is a directory. */}}
{{- define "keygate.onFiles" -}}
{{- if hasKey .Values.config.keystore "fs" -}}yes{{- end -}}
{{- end -}}

{{/* What would lose keys, leak secrets or never start is refused before anything
is made. */}}
{{- define "keygate.check" -}}
{{- $v := .Values -}}
{{- $most := ternary (int $v.autoscaling.maxReplicas) (int $v.replicas) $v.autoscaling.enabled -}}
{{- if and (include "keygate.onFiles" .) (gt $most 1) (not $v.sharedFileStore) -}}
{{- fail "config.keystore.fs with more than one replica: each gateway would have keys of its own. Use a store that is made to be shared (etcd, postgres, vault, secretsmanager), or replicas: 1, or set sharedFileStore if the directory is one and the same for all pods" -}}
{{- end -}}
{{- if and (include "keygate.onFiles" .) (not $v.fileStore.existingClaim) -}}
{{- fail "config.keystore.fs needs fileStore.existingClaim: in a pod's own file system the keys would be lost with the pod" -}}
{{- end -}}
{{- if hasKey $v.config.keystore "memory" -}}
{{- fail "config.keystore.memory: the keys would be lost with the pod" -}}
{{- end -}}
{{- if dig "root" "pkcs11" "pin" "env" "" $v.config -}}
{{- fail "config.root.pkcs11.pin.env: secrets come from files here: set pin.file, and mount it with secrets" -}}
{{- end -}}
{{- if dig "tls" "password" "" $v.config -}}
{{- fail "config.tls.password: a ConfigMap is no place for it: store the private key without a password, in a secret" -}}
{{- end -}}
{{- range $key := list "address" "tls.cert" "tls.key" -}}
{{- if dig (splitList "." $key | first) "" $v.config -}}
{{- if or (eq $key "address") (hasKey $v.config.tls (splitList "." $key | last)) -}}
{{- fail (printf "config.%s is the chart's: set port, or tls.secretName" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey (get $v.config "policy" | default dict) "keygate-probe" -}}
{{- fail "config.policy.keygate-probe is the chart's: set probes.identity" -}}
{{- end -}}
{{- if and (eq $v.probes.type "exec") (or (not $v.probes.identity) (not $v.probes.secretName)) -}}
{{- fail "probes.type: exec needs probes.identity and probes.secretName: make them with keygate identity new --api-key-file api-key" -}}
{{- end -}}
{{- if and (eq $v.probes.credential "apiKey") (eq $v.probes.type "exec") (has (toString (dig "tls" "auth" "off" $v.config)) (list "on" "true")) -}}
{{- fail "probes.credential: apiKey cannot pass config.tls.auth: on, as its certificate is self-signed: use certificate" -}}
{{- end -}}
{{- range $section := list "keystore" "root" -}}
{{- $login := dig $section "vault" "auth" "kubernetes" dict $v.config -}}
{{- if and $login (not (get $login "jwt_file")) (not $v.serviceAccount.token) -}}
{{- fail (printf "config.%s.vault.auth.kubernetes needs serviceAccount.token: true, or a jwt_file that is mounted" $section) -}}
{{- end -}}
{{- end -}}
{{- if le (int $v.terminationGracePeriodSeconds) (add $v.preStopSeconds 10 | int) -}}
{{- fail "terminationGracePeriodSeconds is not more than preStopSeconds and the 10 s in which a gateway finishes its requests" -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: the values, and what is the chart's. */}}
{{- define "keygate.config" -}}
{{- include "keygate.check" . -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "address" (printf "0.0.0.0:%d" (int .Values.port)) -}}
{{- $_ := set $config "tls" (merge (dict "cert" "/etc/keygate/tls/tls.crt" "key" "/etc/keygate/tls/tls.key") (get $config "tls" | default dict)) -}}
{{- if eq .Values.probes.type "exec" -}}
{{- $probe := dict "allow" (list "/v1/ready") "identities" (list .Values.probes.identity) -}}
{{- $_ := set $config "policy" (merge (dict "keygate-probe" $probe) (get $config "policy" | default dict)) -}}
{{- else -}}
{{- $api := get $config "api" | default dict -}}
{{- $_ := set $api "/v1/ready" (merge (dict "skip_auth" true) (get $api "/v1/ready" | default dict)) -}}
{{- $_ := set $config "api" $api -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{/* A probe: of the dict are root, the context, and live. */}}
{{- define "keygate.probe" -}}
{{- $v := .root.Values -}}
{{- if eq $v.probes.type "exec" -}}
exec:
  command:
    - /usr/local/bin/keygate
    - ready
    {{- if .live }}
    - --live
    {{- end }}
    - --server=127.0.0.1:{{ $v.port }}
    # Its own address, in its own pod: no name of the certificate is that.
    - --insecure
    {{- if eq $v.probes.credential "apiKey" }}
    - --api-key-file=/etc/keygate/probe/api-key
    {{- else }}
    - --client-cert=/etc/keygate/probe/tls.crt
    - --client-key=/etc/keygate/probe/tls.key
    {{- end }}
    - --timeout={{ sub .timeout 1 | max 1 }}s
{{- else -}}
httpGet:
  scheme: HTTPS
  port: https
  path: {{ ternary "/version" "/v1/ready" .live }}
{{- end -}}
{{- end -}}

{{/* The mounts of configuration and secrets, which the Job has too. */}}
{{- define "keygate.mounts" -}}
- name: config
  mountPath: /etc/keygate/config
  readOnly: true
- name: tls
  mountPath: /etc/keygate/tls
  readOnly: true
{{- if eq .Values.probes.type "exec" }}
- name: probe
  mountPath: /etc/keygate/probe
  readOnly: true
{{- end }}
{{- range .Values.secrets }}
- name: {{ .name }}
  mountPath: {{ .mountPath }}
  readOnly: true
{{- end }}
{{- if include "keygate.onFiles" . }}
- name: keystore
  mountPath: /var/lib/keygate
{{- end }}
{{- if .Values.library.image }}
- name: library
  mountPath: {{ .Values.library.mountPath }}
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Modes of secrets: for the owner, who is root. Kubelet adds the right to read
for the group of fsGroup; with a key store of files, which has none, the group is
root's own, of which the pod is a member. */}}
{{- define "keygate.secretMode" -}}
{{- ternary "0440" "0400" (eq (include "keygate.onFiles" .) "yes") -}}
{{- end -}}

{{- define "keygate.volumes" -}}
{{- $mode := include "keygate.secretMode" . -}}
- name: config
  configMap:
    name: {{ include "keygate.name" . }}
- name: tls
  secret:
    secretName: {{ required "tls.secretName is required" .Values.tls.secretName }}
    defaultMode: {{ $mode }}
{{- if eq .Values.probes.type "exec" }}
- name: probe
  secret:
    secretName: {{ .Values.probes.secretName }}
    defaultMode: {{ $mode }}
{{- end }}
{{- range .Values.secrets }}
- name: {{ .name }}
  secret:
    secretName: {{ .secretName }}
    defaultMode: {{ $mode }}
    {{- with get . "items" }}
    items: {{ toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- if include "keygate.onFiles" . }}
- name: keystore
  persistentVolumeClaim:
    claimName: {{ .Values.fileStore.existingClaim }}
{{- end }}
{{- if .Values.library.image }}
- name: library
  emptyDir: {}
{{- end }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "keygate.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.user }}
{{- if include "keygate.onFiles" . }}
supplementalGroups: [0]
{{- else }}
fsGroup: {{ .Values.user }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The security context of a container. */}}
{{- define "keygate.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "keygate.env" -}}
{{- with .Values.env }}
env:
  {{- range $name, $value := . }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "keygate.library" -}}
{{- if .Values.library.image }}
initContainers:
  - name: library
    image: {{ .Values.library.image }}
    imagePullPolicy: {{ .Values.library.pullPolicy }}
    command: {{ toJson .Values.library.command }}
    securityContext: {{ include "keygate.security" . | nindent 6 }}
    volumeMounts:
      - name: library
        mountPath: {{ .Values.library.mountPath }}
{{- end }}
{{- end -}}
