{{- /* Values that do not go together: each rule is one sentence that says what to change. */}}
{{- define "sse-gateway.validate" -}}
{{- include "sse-gateway.validateRedis" . -}}
{{- include "sse-gateway.validateDrain" . -}}
{{- include "sse-gateway.validateScaling" . -}}
{{- include "sse-gateway.validatePod" . -}}
{{- if and .Values.publish.keys .Values.publish.existingSecret -}}
{{- fail "publish.keys and publish.existingSecret exclude each other: choose one." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: name the Gateway that the route belongs to." -}}
{{- end -}}
{{- include "sse-gateway.validateSecrets" . -}}
{{- include "sse-gateway.validateAccess" . -}}
{{- end -}}

{{- define "sse-gateway.validateRedis" -}}
{{- $chosen := list -}}
{{- if .Values.redis.url }}{{ $chosen = append $chosen "redis.url" }}{{ end -}}
{{- if .Values.redis.existingSecret }}{{ $chosen = append $chosen "redis.existingSecret" }}{{ end -}}
{{- if .Values.redis.embedded.enabled }}{{ $chosen = append $chosen "redis.embedded.enabled" }}{{ end -}}
{{- if not $chosen -}}
{{- fail "Choose a Redis: redis.url or redis.existingSecret for one that is there, or redis.embedded.enabled=true to try the gateway with a small one of its own." -}}
{{- else if gt (len $chosen) 1 -}}
{{- fail (printf "Choose one Redis: %s are set, and exclude each other." (join " and " $chosen)) -}}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.validateDrain" -}}
{{- $drain := .Values.config.drain -}}
{{- $delay := include "sse-gateway.milliseconds" (list "config.drain.delay" $drain.delay) | int64 -}}
{{- $spread := include "sse-gateway.milliseconds" (list "config.drain.spread" $drain.spread) | int64 -}}
{{- $grace := include "sse-gateway.milliseconds" (list "config.drain.grace" $drain.grace) | int64 -}}
{{- if gt (add $delay $spread) $grace -}}
{{- fail (printf "config.drain.delay (%s) and config.drain.spread (%s) do not fit into config.drain.grace (%s)." $drain.delay $drain.spread $drain.grace) -}}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.validateScaling" -}}
{{- with .Values.hpa -}}
{{- if .enabled -}}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) -}}
{{- fail (printf "hpa.minReplicas (%d) is more than hpa.maxReplicas (%d)." (int64 .minReplicas) (int64 .maxReplicas)) -}}
{{- end -}}
{{- if not (or .targetCPU .targetStreams) -}}
{{- fail "hpa.enabled needs hpa.targetCPU or hpa.targetStreams: there is nothing to scale by." -}}
{{- end -}}
{{- if and .targetCPU (not (dig "requests" "cpu" "" (default dict $.Values.resources))) -}}
{{- fail "hpa.targetCPU is a percentage of resources.requests.cpu, which is not set." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.pdb -}}
{{- if and .enabled (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) -}}
{{- fail "pdb.enabled needs pdb.maxUnavailable or pdb.minAvailable." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.validatePod" -}}
{{- range .Values.extraEnv -}}
{{- if or (has .name (list "SSE_NODE" "SSE_LISTEN" "SSE_ADMIN__LISTEN" "SSE_ADMIN__METRICS_OPEN" "SSE_HTTP__PATH_PREFIX" "SSE_HTTP__PROXY_PROTOCOL")) (hasPrefix "SSE_DRAIN__" .name) (hasPrefix "SSE_ACCESS__" .name) -}}
{{- fail (printf "extraEnv sets %s, which the rest of the chart depends on: use config or bindAddress." .name) -}}
{{- else if or (has .name (list "SSE_REDIS__URL" "SSE_PUBLISH__KEYS" "SSE_PUBLISH__KEY_FILES" "SSE_TOKENS__KEYS" "SSE_TOKENS__KEY_FILES")) (hasPrefix "SSE_ADMIN__" .name) (hasPrefix "SSE_TLS__" .name) -}}
{{- fail (printf "extraEnv sets %s: use redis, publish, tokens, tls or admin, which keep it in a Secret." .name) -}}
{{- end -}}
{{- end -}}
{{- range $label, $_ := include "sse-gateway.selector" (list . "gateway") | fromYaml -}}
{{- if hasKey (merge (dict) (default dict $.Values.podLabels) (default dict $.Values.commonLabels)) $label -}}
{{- fail (printf "podLabels and commonLabels may not set %s: it selects the pods." $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.validateSecrets" -}}
{{- if and .Values.publish.existingSecretFiles (not .Values.publish.existingSecret) -}}
{{- fail "publish.existingSecretFiles are keys of publish.existingSecret, which is not set." -}}
{{- end -}}
{{- if and .Values.tokens.files (not .Values.tokens.existingSecret) -}}
{{- fail "tokens.files are keys of tokens.existingSecret, which is not set." -}}
{{- end -}}
{{- if and .Values.tokens.existingSecret (not .Values.tokens.files) -}}
{{- fail "tokens.existingSecret needs tokens.files: which of its keys are what, such as \"ES256 token.pem\"." -}}
{{- end -}}
{{- if and .Values.admin.token .Values.admin.existingSecret -}}
{{- fail "admin.token and admin.existingSecret exclude each other: choose one." -}}
{{- end -}}
{{- range $name, $tls := dict "tls" .Values.tls "admin.tls" .Values.admin.tls -}}
{{- if and $tls.clientCaSecret (not $tls.existingSecret) -}}
{{- fail (printf "%s.clientCaSecret needs %s.existingSecret: without TLS nobody shows a certificate." $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sse-gateway.validateAccess" -}}
{{- $config := .Values.config -}}
{{- $access := default dict $config.access -}}
{{- $forward := dig "forward" "url" "" $config -}}
{{- if not (or $access.subscribe $access.publish $forward (include "sse-gateway.tokenKeys" .) (eq (toString $config.dev) "true")) -}}
{{- fail "Nothing says who may subscribe: set config.access.subscribe (\"* open\" lets anyone), tokens.existingSecret or config.tokens.jwks_url (who shows a token), or config.forward.url (whom your backend lets in)." -}}
{{- end -}}
{{- range $rule := concat (default list $access.subscribe) (default list $access.publish) -}}
{{- if and (regexMatch " forward *$" $rule) (not $forward) -}}
{{- fail (printf "config.access has %q, and there is no config.forward.url to ask." $rule) -}}
{{- end -}}
{{- end -}}
{{- if and (dig "http" "proxy_protocol" false $config) (not (dig "http" "trusted_proxies" list $config)) -}}
{{- fail "config.http.proxy_protocol needs config.http.trusted_proxies: the addresses of the proxies that send it." -}}
{{- end -}}
{{- if and (eq .Values.service.appProtocol "kubernetes.io/h2c") (or .Values.tls.existingSecret (not (dig "http" "http2" true $config))) -}}
{{- fail "service.appProtocol is kubernetes.io/h2c, HTTP/2 without TLS: tls.existingSecret and config.http.http2=false do not go with it." -}}
{{- end -}}
{{- end -}}
