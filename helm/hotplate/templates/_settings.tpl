{{/* The service's environment, and the times that follow from it. */}}

{{/* Helm reads every number as a float; without care 33554432 would become 3.3554432e+07. */}}
{{- define "hotplate.settingText" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{- define "hotplate.environment" -}}
HOTPLATE_HOST: "0.0.0.0"
HOTPLATE_PORT: "8000"
HOTPLATE_GRPC_PORT: {{ .Values.grpc.enabled | ternary "8001" "off" | quote }}
HOTPLATE_DEVICE: {{ .Values.gpu.enabled | ternary (gt (int .Values.gpu.count) 1 | ternary "cuda:all" "cuda") "cpu" }}
HOTPLATE_REPOSITORY: {{ include "hotplate.repository" . | quote }}
{{- if .Values.apiKeys.existingSecret }}
HOTPLATE_API_KEYS_FILE: /etc/hotplate/keys/api-keys
{{- else }}
HOTPLATE_INSECURE: {{ .Values.insecure | quote }}
{{- end }}
{{- include "hotplate.tlsEnvironment" . }}
{{- range $name, $value := .Values.settings }}
HOTPLATE_{{ upper $name }}: {{ include "hotplate.settingText" $value | quote }}
{{- end }}
{{- if .Values.tracing.enabled }}
HOTPLATE_OTEL_ENDPOINT: {{ .Values.tracing.endpoint | quote }}
{{- end }}
{{- end -}}

{{/* Also what makes the probe of the image ask with TLS, and present the certificate. */}}
{{- define "hotplate.tlsEnvironment" -}}
{{- if .Values.tls.existingSecret }}
HOTPLATE_TLS_CERTIFICATE: /etc/hotplate/tls/tls.crt
HOTPLATE_TLS_KEY: /etc/hotplate/tls/tls.key
{{- if .Values.tls.clients }}
HOTPLATE_TLS_CLIENT_CA: /etc/hotplate/tls/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "hotplate.repository" -}}
{{- $folders := list -}}
{{- with .Values.modelRepository -}}
{{- if or .persistentVolumeClaim.enabled .initContainer.enabled -}}
{{- $folders = append $folders "/models" -}}
{{- end -}}
{{- if .shipped -}}
{{- $folders = append $folders "/app/models/repository" -}}
{{- end -}}
{{- end -}}
{{- join ":" $folders -}}
{{- end -}}

{{/* Seconds from the first word of an end to the last answer: the sleep, the drain, the requests in flight. */}}
{{- define "hotplate.shutdownSeconds" -}}
{{- $settings := .Values.settings | default dict -}}
{{- ceil (addf .Values.shutdown.preStopSleepSeconds (dig "drain_seconds" 1 $settings) (dig "grace_seconds" 30 $settings)) -}}
{{- end -}}

{{- define "hotplate.terminationGracePeriodSeconds" -}}
{{- $needed := include "hotplate.shutdownSeconds" . | int -}}
{{- $wanted := .Values.shutdown.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $wanted -}}
{{- add $needed .Values.shutdown.marginSeconds -}}
{{- else if le (int $wanted) $needed -}}
{{- fail (printf "shutdown.terminationGracePeriodSeconds is %d: the preStop sleep, the drain and the requests in flight may take %d s, so it must be larger." (int $wanted) $needed) -}}
{{- else -}}
{{- int $wanted -}}
{{- end -}}
{{- end -}}

{{- define "hotplate.minReplicas" -}}
{{- with .Values -}}
{{- if .autoscaling.enabled -}}{{ int .autoscaling.minReplicas }}
{{- else if .keda.enabled -}}{{ int .keda.minReplicas }}
{{- else -}}{{ int .replicaCount }}
{{- end -}}
{{- end -}}
{{- end -}}
