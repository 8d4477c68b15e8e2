{{/* Names and labels that several resources share. */}}

{{/* 58 characters at most, so that `-test` still fits. */}}
{{- define "hotplate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 58 | trimSuffix "-" -}}
{{- end -}}

{{/* 52 characters at most, so that the longest ending (-dashboards) still fits a label. */}}
{{- define "hotplate.fullname" -}}
{{- $name := include "hotplate.name" . -}}
{{- $joined := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $joined .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "hotplate.selector" -}}
app.kubernetes.io/name: {{ include "hotplate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The pod of `helm test`: let in by the NetworkPolicy, and never taken for a pod of the service. */}}
{{- define "hotplate.testSelector" -}}
app.kubernetes.io/name: {{ include "hotplate.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hotplate.labels" -}}
{{ include "hotplate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "hotplate.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "hotplate.fullname" .) "default") -}}
{{- end -}}

{{- define "hotplate.claimName" -}}
{{- .Values.modelRepository.persistentVolumeClaim.existingClaim | default (printf "%s-models" (include "hotplate.fullname" .)) -}}
{{- end -}}

{{- define "hotplate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (printf "%s%s" $.Chart.AppVersion ($.Values.gpu.enabled | ternary "-gpu" "")) }}
{{- end -}}
{{- end -}}
{{- end -}}
