{{- /* How permission is given in a room, by the first rule that fits. Takes (list $ subscribe|publish ROOM). */}}
{{- define "sse-gateway.mode" -}}
{{- $config := (index . 0).Values.config -}}
{{- $mode := "token" -}}
{{- range reverse (dig "access" (index . 1) list $config) -}}
{{- $words := regexSplit " +" (trim .) -1 -}}
{{- if regexMatch (printf "^%s$" (replace "\\*" ".*" (regexQuoteMeta (first $words)))) (index $ 2) -}}
{{- $mode = last $words -}}
{{- end -}}
{{- end -}}
{{- ternary "open" $mode (eq (toString $config.dev) "true") -}}
{{- end -}}

{{- /* Rules in words, one to a line. Takes (list $ subscribe|publish). */}}
{{- define "sse-gateway.rulesInWords" -}}
{{- $root := index . 0 -}}
{{- $words := dict "open" "anyone" "token" "who shows a token that names the room" "forward" (printf "whom %s lets in" (regexReplaceAll "\\?.*" (dig "forward" "url" "" $root.Values.config) "")) -}}
{{- if not (include "sse-gateway.tokenKeys" $root) }}{{ $_ := set $words "token" "nobody, as there is no key to check tokens with" }}{{ end -}}
{{- if eq (toString $root.Values.config.dev) "true" -}}
every room: anyone (config.dev)
{{- else -}}
{{- $rest := true -}}
{{- range dig "access" (index . 1) list $root.Values.config -}}
{{- $rule := regexSplit " +" (trim .) -1 -}}
{{ first $rule }}: {{ get $words (last $rule) }}
{{ if eq (first $rule) "*" }}{{ $rest = false }}{{ end -}}
{{- end -}}
{{- if $rest -}}
every {{ if dig "access" (index . 1) list $root.Values.config }}other {{ end }}room: {{ $words.token }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Where the keys for tokens come from; nothing where there are none. */}}
{{- define "sse-gateway.tokenKeys" -}}
{{- if or .Values.tokens.keys .Values.tokens.files (dig "tokens" "jwks_url" "" .Values.config) }}yes{{ end -}}
{{- end -}}

{{- /* The first of the given publish keys that is a key and no hash, those for all rooms first. */}}
{{- define "sse-gateway.plainKey" -}}
{{- $plain := list -}}
{{- range .Values.publish.keys -}}
{{- if not (hasPrefix "sha256:" .) }}{{ $plain = append $plain . }}{{ end -}}
{{- end -}}
{{- $all := list -}}
{{- range $plain }}{{ if not (contains " " .) }}{{ $all = append $all . }}{{ end }}{{ end -}}
{{- with concat $all $plain }}{{ first . | splitList " " | first }}{{ end -}}
{{- end -}}

{{- /* What `helm test` can try: `streams` and publishing, to `publish` only, or nothing. Its program does not speak the PROXY
protocol. It reads rooms (load-…) that anyone may read, and publishes with a key. */}}
{{- define "sse-gateway.test" -}}
{{- $publish := .Values.publish -}}
{{- $key := or $publish.existingSecretTestKey (and $publish.existingSecret (not $publish.existingSecretFiles)) -}}
{{- if not $publish.existingSecret }}{{ $key = or (not $publish.keys) (include "sse-gateway.plainKey" .) }}{{ end -}}
{{- if and $key (not (dig "http" "proxy_protocol" false .Values.config)) -}}
{{- ternary "streams" "publish" (eq (include "sse-gateway.mode" (list . "subscribe" "load-0")) "open") -}}
{{- end -}}
{{- end -}}

{{- /* Secrets that are mounted as files, in /etc/sse-gateway-NAME, as a dict of NAME and Secret. */}}
{{- define "sse-gateway.secretFiles" -}}
{{- $own := include "sse-gateway.fullname" . -}}
{{- $files := dict "admin" (default $own .Values.admin.existingSecret) "redis" .Values.redis.files.existingSecret -}}
{{- $_ := set $files "tls" .Values.tls.existingSecret -}}
{{- $_ := set $files "tls-ca" .Values.tls.clientCaSecret -}}
{{- $_ := set $files "admin-tls" .Values.admin.tls.existingSecret -}}
{{- $_ := set $files "admin-ca" .Values.admin.tls.clientCaSecret -}}
{{- if .Values.tokens.files }}{{ $_ := set $files "tokens" .Values.tokens.existingSecret }}{{ end -}}
{{- if .Values.publish.existingSecretFiles }}{{ $_ := set $files "publish" .Values.publish.existingSecret }}{{ end -}}
{{- toYaml $files -}}
{{- end -}}

{{- /* The settings that name those files. Changes the configuration that it is given. Takes (list $ CONFIG). */}}
{{- define "sse-gateway.fileSettings" -}}
{{- $values := (index . 0).Values -}}
{{- $config := index . 1 -}}
{{- $admin := dict "token_file" (printf "/etc/sse-gateway-admin/%s" (ternary $values.admin.existingSecretKey "admin-token" (ne $values.admin.existingSecret ""))) -}}
{{- include "sse-gateway.tlsSettings" (list $admin $values.admin.tls "admin-tls" "admin-ca") -}}
{{- $_ := set $config "admin" (merge $admin (default dict $config.admin)) -}}
{{- $tls := dict -}}
{{- include "sse-gateway.tlsSettings" (list $tls $values.tls "tls" "tls-ca") -}}
{{- if $tls }}{{ $_ := set $config "tls" $tls }}{{ end -}}
{{- if $values.tokens.files -}}
{{- $lines := list -}}
{{- range $values.tokens.files -}}
{{- $words := splitList " " . -}}
{{- $lines = append $lines (append (initial $words) (printf "/etc/sse-gateway-tokens/%s" (last $words)) | join " ") -}}
{{- end -}}
{{- $_ := set $config "tokens" (merge (dict "key_files" $lines) (default dict $config.tokens)) -}}
{{- end -}}
{{- if $values.publish.existingSecretFiles -}}
{{- $paths := list -}}
{{- range $values.publish.existingSecretFiles }}{{ $paths = append $paths (printf "/etc/sse-gateway-publish/%s" .) }}{{ end -}}
{{- $_ := set $config "publish" (merge (dict "key_files" $paths) (default dict $config.publish)) -}}
{{- end -}}
{{- end -}}

{{- /* Takes (list SETTINGS VALUES NAME-OF-THE-CERTIFICATE'S-FILES NAME-OF-THE-CA'S-FILES). */}}
{{- define "sse-gateway.tlsSettings" -}}
{{- $settings := index . 0 -}}
{{- with index . 1 -}}
{{- if .existingSecret -}}
{{- $_ := set $settings "cert_file" (printf "/etc/sse-gateway-%s/tls.crt" (index $ 2)) -}}
{{- $_ := set $settings "key_file" (printf "/etc/sse-gateway-%s/tls.key" (index $ 2)) -}}
{{- end -}}
{{- if .clientCaSecret -}}
{{- $_ := set $settings "client_ca_file" (printf "/etc/sse-gateway-%s/%s" (index $ 3) .clientCaKey) -}}
{{- end -}}
{{- end -}}
{{- end -}}
