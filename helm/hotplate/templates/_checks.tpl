{{/* Values that are well-formed each, and wrong together. The schema cannot say why; these can. */}}

{{- define "hotplate.check" -}}
{{- with .Values -}}
{{- if and .autoscaling.enabled .keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled are both true: two autoscalers would fight over one Deployment; set autoscaling.enabled=false." -}}
{{- end -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d, more than autoscaling.maxReplicas, %d." (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .autoscaling.enabled (not (or .autoscaling.cpu.enabled .autoscaling.inFlight.enabled .autoscaling.queueTime.enabled)) -}}
{{- fail "autoscaling.enabled is true and all its signals are off; enable cpu, inFlight or queueTime." -}}
{{- end -}}
{{- if .keda.enabled -}}
{{- if not .keda.serverAddress -}}
{{- fail "keda.serverAddress is empty; keda.enabled needs the address of a Prometheus, such as http://prometheus-operated.monitoring:9090." -}}
{{- end -}}
{{- if gt (int .keda.minReplicas) (int .keda.maxReplicas) -}}
{{- fail (printf "keda.minReplicas is %d, more than keda.maxReplicas, %d." (int .keda.minReplicas) (int .keda.maxReplicas)) -}}
{{- end -}}
{{- if not (or .keda.inFlight.enabled .keda.queueTime.enabled) -}}
{{- fail "keda.enabled is true and both its signals are off; enable inFlight or queueTime." -}}
{{- end -}}
{{- end -}}
{{- if and (regexMatch "^0+%?$" (toString .rollout.maxSurge)) (regexMatch "^0+%?$" (toString .rollout.maxUnavailable)) -}}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0: no update could ever begin; set rollout.maxUnavailable=1." -}}
{{- end -}}
{{- $ports := list (int .service.httpPort) (int .service.metricsPort) -}}
{{- if .grpc.enabled -}}
{{- $ports = append $ports (int .service.grpcPort) -}}
{{- end -}}
{{- if ne (len (uniq $ports)) (len $ports) -}}
{{- fail (printf "service has the same port twice: %v for HTTP, metrics and gRPC." $ports) -}}
{{- end -}}
{{- with .modelRepository -}}
{{- if and .persistentVolumeClaim.enabled .initContainer.enabled -}}
{{- fail "modelRepository.persistentVolumeClaim and modelRepository.initContainer are both enabled; models come from one of them." -}}
{{- end -}}
{{- if not (or .shipped .persistentVolumeClaim.enabled .initContainer.enabled) -}}
{{- fail "modelRepository.shipped is false and no volume is enabled: there would be nothing to serve; enable persistentVolumeClaim or initContainer." -}}
{{- end -}}
{{- if and .initContainer.enabled (not .initContainer.image) -}}
{{- fail "modelRepository.initContainer.image is empty; name an image that writes models to /models." -}}
{{- end -}}
{{- end -}}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty; httpRoute.enabled needs a Gateway to attach to, such as [{name: public, namespace: gateways}]." -}}
{{- end -}}
{{- if not (or .apiKeys.existingSecret .insecure) -}}
{{- fail "apiKeys.existingSecret is empty: whoever reaches the pods could use them. Name a Secret with keys (`hotplate keys new NAME`), or set insecure=true." -}}
{{- end -}}
{{- if and .settings.metrics_need_key (not .apiKeys.existingSecret) -}}
{{- fail "settings.metrics_need_key is true without keys; name a Secret in apiKeys.existingSecret." -}}
{{- end -}}
{{- if and .tls.clients (not .tls.existingSecret) -}}
{{- fail "tls.clients is true without a certificate; name a Secret in tls.existingSecret." -}}
{{- end -}}
{{- if and .settings.metrics_need_key .serviceMonitor.enabled (not .serviceMonitor.bearerSecret) -}}
{{- fail "settings.metrics_need_key is true, so Prometheus needs a key, too; name it in serviceMonitor.bearerSecret." -}}
{{- end -}}
{{- end -}}
{{- end -}}
