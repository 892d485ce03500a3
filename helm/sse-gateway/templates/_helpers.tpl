{{- define "sse-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 46 | trimSuffix "-" -}}
{{- end -}}

{{- /* 46 characters: StatefulSets put their name and a hash into a label of at most 63. */}}
{{- define "sse-gateway.fullname" -}}
{{- $name := include "sse-gateway.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Labels that select the pods of a component; they never change. Takes (list $ COMPONENT). */}}
{{- define "sse-gateway.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "sse-gateway.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* Labels of an object. Takes (list $ COMPONENT). */}}
{{- define "sse-gateway.labels" -}}
{{- $root := index . 0 -}}
{{ include "sse-gateway.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Takes an image of the values, and the tag to use without one: (list IMAGE TAG). */}}
{{- define "sse-gateway.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sse-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* The path below which the gateway serves; routes and the test need it. */}}
{{- define "sse-gateway.prefix" -}}
{{- dig "http" "path_prefix" "" .Values.config -}}
{{- end -}}

{{- define "sse-gateway.redisUrlFrom" -}}
secretKeyRef:
  name: {{ default (include "sse-gateway.fullname" .) .Values.redis.existingSecret }}
  key: {{ ternary .Values.redis.existingSecretKey "redis-url" (ne .Values.redis.existingSecret "") }}
{{- end -}}

{{- /* Where the gateway finds the files of the Secret. */}}
{{- define "sse-gateway.redisFiles" -}}
{{- $files := .Values.redis.files -}}
{{- if $files.existingSecret -}}
{{- range $name, $key := dict "PASSWORD_FILE" $files.password "CA_FILE" $files.ca "CERT_FILE" $files.cert "KEY_FILE" $files.key "SENTINEL_PASSWORD_FILE" $files.sentinelPassword }}
{{- if $key }}
- name: SSE_REDIS__{{ $name }}
  value: /etc/sse-gateway-redis/{{ $key }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.publishKeysFrom" -}}
secretKeyRef:
  name: {{ default (include "sse-gateway.fullname" .) .Values.publish.existingSecret }}
  key: {{ ternary .Values.publish.existingSecretKey "publish-keys" (ne .Values.publish.existingSecret "") }}
{{- end -}}

{{- /* A single key, for a program that publishes. */}}
{{- define "sse-gateway.publishKeyFrom" -}}
{{- $own := default .Values.publish.existingSecretKey .Values.publish.existingSecretTestKey -}}
secretKeyRef:
  name: {{ default (include "sse-gateway.fullname" .) .Values.publish.existingSecret }}
  key: {{ ternary $own "publish-key" (ne .Values.publish.existingSecret "") }}
{{- end -}}

{{- /* Labels of the gateways' pods: those of the values never win over those that select. */}}
{{- define "sse-gateway.podLabels" -}}
{{- $selector := include "sse-gateway.selector" (list . "gateway") | fromYaml -}}
{{- merge $selector (default dict .Values.podLabels) (default dict .Values.commonLabels) | toYaml -}}
{{- end -}}

{{- /* Constraints without a selector get the one of the gateways, each revision for itself. */}}
{{- define "sse-gateway.topologySpread" -}}
{{- $root := . -}}
{{- range .Values.topologySpreadConstraints }}
{{- $constraint := deepCopy . }}
{{- if not (hasKey $constraint "labelSelector") }}
{{- $labels := include "sse-gateway.selector" (list $root "gateway") | fromYaml }}
{{- $_ := set $constraint "labelSelector" (dict "matchLabels" $labels) }}
{{- $_ := set $constraint "matchLabelKeys" (list "pod-template-hash") }}
{{- end }}
- {{ toYaml $constraint | nindent 2 | trim }}
{{- end }}
{{- end -}}
