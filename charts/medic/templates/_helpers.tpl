{{- define "medic.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for "-worker-" and the name of a pool behind it. */}}
{{- define "medic.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "medic.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "medic.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "medic.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "medic.namespace" -}}
{{- .Release.Namespace }}
{{- end }}

{{- define "medic.selectorLabels" -}}
app.kubernetes.io/name: {{ include "medic.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "medic.labels" -}}
helm.sh/chart: {{ include "medic.chart" . }}
{{ include "medic.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Of one component: {root, component}. */}}
{{- define "medic.componentSelectorLabels" -}}
{{ include "medic.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "medic.componentLabels" -}}
{{ include "medic.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "medic.apiSelectorLabels" -}}
{{ include "medic.componentSelectorLabels" (dict "root" . "component" "api") }}
{{- end }}

{{/* Of one pool: {root, pool}. */}}
{{- define "medic.workerSelectorLabels" -}}
{{ include "medic.componentSelectorLabels" (dict "root" .root "component" "worker") }}
medic/pool: {{ .pool.name }}
{{- end }}

{{- define "medic.workerLabels" -}}
{{ include "medic.componentLabels" (dict "root" .root "component" "worker") }}
medic/pool: {{ .pool.name }}
{{- end }}

{{- define "medic.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "medic.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "medic.configmapName" -}}
{{- include "medic.fullname" . }}-config
{{- end }}

{{- define "medic.secretName" -}}
{{- default (include "medic.fullname" .) .Values.secret.name }}
{{- end }}

{{- define "medic.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{- define "medic.envFrom" -}}
- configMapRef:
    name: {{ include "medic.configmapName" . }}
- secretRef:
    name: {{ include "medic.secretName" . }}
{{- end }}

{{- define "medic.podSecurityContext" -}}
{{- toYaml .Values.security.podSecurityContext }}
{{- end }}

{{- define "medic.securityContext" -}}
{{- toYaml .Values.security.securityContext }}
{{- end }}

{{/* The ConfigMap's data: what the chart knows, and over it .Values.config. */}}
{{- define "medic.config" -}}
{{- $data := dict "MEDIC_VERSION" (default .Chart.AppVersion .Values.image.tag) -}}
{{- if .Values.ingress.enabled }}
{{- $scheme := ternary "https" "http" .Values.ingress.tls.enabled }}
{{- $_ := set $data "MEDIC_BASE_URL" (printf "%s://%s" $scheme .Values.ingress.host) }}
{{- $_ := set $data "MEDIC_TRUSTED_PROXIES" "1" }}
{{- else }}
{{- $_ := set $data "MEDIC_BASE_URL" (printf "http://%s-api.%s.svc:%v" (include "medic.fullname" .) (include "medic.namespace" .) .Values.service.port) }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{- $_ := set $data $name (include "medic.text" $value) }}
{{- end }}
{{- range $name, $value := $data }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* A whole number of a values file is a float to Helm: 1000000 must not become 1e+06. */}}
{{- define "medic.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "medic.fixedEnv" -}}
- {name: HOME, value: /tmp}
- {name: MEDIC_RUN_DIR, value: /tmp/medic}
- {name: MEDIC_HOST, value: 0.0.0.0}
- {name: METRICS_PORT, value: {{ .Values.metrics.port | quote }}}
{{- end }}

{{/* Rolls the pods when the chart's own ConfigMap or Secret changes; what External Secrets brings cannot be seen here. */}}
{{- define "medic.checksums" -}}
checksum/config: {{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
checksum/secret: {{ cat (include (print .Template.BasePath "/secret.yaml") .) (include (print .Template.BasePath "/external-secret.yaml") .) | sha256sum }}
{{- end }}

{{/* The pod's part that all components share: {root, selector}.  `selector` is the component's labels as text. */}}
{{- define "medic.podSpec" -}}
{{- $root := .root -}}
{{- with $root.Values.scheduling -}}
securityContext:
  {{- include "medic.podSecurityContext" $root | nindent 2 }}
automountServiceAccountToken: {{ $root.Values.serviceAccount.automountToken }}
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .affinity }}
affinity:
  {{- toYaml .affinity | nindent 2 }}
{{- else if .podAntiAffinity }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- $.selector | nindent 14 }}
{{- end }}
{{- if .zoneSpread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $.selector | nindent 8 }}
{{- end }}
{{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ $root.Values.security.tmpSizeLimit }}
{{- end }}

{{/* What every container shares. */}}
{{- define "medic.container" -}}
image: {{ include "medic.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "medic.securityContext" . | nindent 2 }}
envFrom:
  {{- include "medic.envFrom" . | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "medic.migrations" -}}
{{- if .Values.migrations.enabled }}
initContainers:
  - name: migrate
    # A database that is later already is fine: this is a rollback, and later migrations only add.
    args: [migrate, --or-later]
    {{- include "medic.container" . | nindent 4 }}
    env:
      {{- include "medic.fixedEnv" . | nindent 6 }}
    resources:
      {{- toYaml .Values.migrations.resources | nindent 6 }}
{{- end }}
{{- end }}

{{/* "true" when KEDA scales this pool, which must not say its replicas then: {root, pool}. */}}
{{- define "medic.poolScales" -}}
{{- if and .root.Values.workers.autoscaling.enabled .pool.scaling.enabled }}true{{ end }}
{{- end }}

{{- define "medic.triggerAuthenticationName" -}}
{{- include "medic.fullname" . }}-worker
{{- end }}

{{/* Whether that TriggerAuthentication is needed. */}}
{{- define "medic.triggerAuthentication" -}}
{{- if and .Values.workers.autoscaling.enabled (or (eq .Values.workers.autoscaling.trigger "postgresql") .Values.workers.autoscaling.authentication.redis) }}true{{ end }}
{{- end }}
