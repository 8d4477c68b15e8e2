{{/* Parts of a pod. Nothing in the values can weaken the security contexts: the restricted standard holds throughout. */}}

{{- define "hotplate.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.security }}
{{- if not (kindIs "invalid" .runAsUser) }}
runAsUser: {{ int64 .runAsUser }}
{{- end }}
{{- if not (kindIs "invalid" .runAsGroup) }}
runAsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- if not (kindIs "invalid" .fsGroup) }}
fsGroup: {{ int64 .fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The checksum has a change of the settings start new pods. */}}
{{- define "hotplate.podAnnotations" -}}
{{- $all := dict "checksum/settings" (include "hotplate.environment" . | sha256sum | trunc 32) -}}
{{- if and .Values.scrapeAnnotations.enabled (not .Values.serviceMonitor.enabled) -}}
{{- $all = merge $all (dict "prometheus.io/scrape" "true" "prometheus.io/port" "8000" "prometheus.io/path" "/metrics") -}}
{{- if .Values.tls.existingSecret -}}
{{- $all = merge $all (dict "prometheus.io/scheme" "https") -}}
{{- end -}}
{{- end -}}
{{- toYaml (mergeOverwrite $all .Values.podAnnotations) -}}
{{- end -}}

{{- define "hotplate.containerSecurity" -}}
runAsNonRoot: true
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A kubelet has no certificate to present; the probe of the image has. */}}
{{- define "hotplate.probe" -}}
{{- if .tls.clients -}}
exec:
  command: [python, -m, service.processes.probe, {{ .path }}]
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  {{- if .tls.existingSecret }}
  scheme: HTTPS
  {{- end }}
{{- end }}
periodSeconds: {{ .times.periodSeconds }}
timeoutSeconds: {{ .times.timeoutSeconds }}
failureThreshold: {{ .times.failureThreshold }}
{{- end -}}

{{- define "hotplate.resources" -}}
{{- if .Values.gpu.enabled -}}
{{- $devices := dict .Values.gpu.resourceName .Values.gpu.count -}}
{{- $own := deepCopy .Values.resources -}}
{{- toYaml (mergeOverwrite $own (dict "limits" $devices)) -}}
{{- else -}}
{{- toYaml .Values.resources -}}
{{- end -}}
{{- end -}}

{{- define "hotplate.tolerations" -}}
{{- $own := .Values.tolerations -}}
{{- if .Values.gpu.enabled -}}
{{- $own = append $own (dict "key" .Values.gpu.resourceName "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- with $own }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "hotplate.spread" -}}
{{- if kindIs "invalid" .Values.topologySpreadConstraints -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "hotplate.selector" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- else -}}
{{- with .Values.topologySpreadConstraints }}{{ toYaml . }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "hotplate.initContainer" -}}
{{- with .Values.modelRepository.initContainer -}}
- name: fetch-models
  image: {{ .image | quote }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  {{- with .command }}
  command: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .args }}
  args: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .env }}
  env: {{ toYaml . | nindent 4 }}
  {{- end }}
  # A node evicts a pod whose volumes outgrow the largest limit on disk that one of its containers has.
  resources: {{ merge (deepCopy .resources) (dict "limits" (dict "ephemeral-storage" .sizeLimit)) | toYaml | nindent 4 }}
  securityContext: {{ include "hotplate.containerSecurity" $ | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: temporary, mountPath: /tmp}
{{- end -}}
{{- end -}}

{{- define "hotplate.mounts" -}}
- {name: temporary, mountPath: /tmp}
{{- if include "hotplate.modelVolume" . }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- {name: api-keys, mountPath: /etc/hotplate/keys, readOnly: true}
{{- end }}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/hotplate/tls, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hotplate.modelVolume" -}}
{{- with .Values.modelRepository -}}
{{- if .persistentVolumeClaim.enabled -}}
persistentVolumeClaim:
  claimName: {{ include "hotplate.claimName" $ }}
  readOnly: true
{{- else if .initContainer.enabled -}}
emptyDir:
  sizeLimit: {{ .initContainer.sizeLimit }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "hotplate.tlsVolume" -}}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 288  # 0440
{{- end }}
{{- end -}}

{{- define "hotplate.volumes" -}}
- name: temporary
  emptyDir:
    sizeLimit: {{ .Values.temporaryFolder.sizeLimit }}
    {{- with .Values.temporaryFolder.medium }}
    medium: {{ . }}
    {{- end }}
{{- with include "hotplate.modelVolume" . }}
- name: models
  {{- nindent 2 . }}
{{- end }}
{{- with .Values.apiKeys.existingSecret }}
- name: api-keys
  secret:
    secretName: {{ . }}
    defaultMode: 288  # 0440
    items:
      - {key: api-keys, path: api-keys}
{{- end }}
{{- include "hotplate.tlsVolume" . }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
