{{- /* A table as TOML: plain values first, then tables, as TOML wants it. Takes a dict with "table" and
the "path" above it. Not helm's toToml: it writes 1048576 as 1.048576e+06, which is no integer. */}}
{{- define "sse-gateway.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "sse-gateway.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $name := printf "%s%s" $path $key }}

[{{ $name }}]
{{- include "sse-gateway.toml" (dict "table" $value "path" (printf "%s." $name)) }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Strings as JSON writes them are strings of TOML. All numbers of YAML arrive as floats. */}}
{{- define "sse-gateway.tomlValue" -}}
{{- if kindIs "string" . -}}
{{- toRawJson . -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "sse-gateway.tomlValue" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ toJson . }}{{ end -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- /* The configuration file: that of the values, the addresses, and where the files of Secrets are. */}}
{{- define "sse-gateway.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "listen" (printf "%s:8080" .Values.bindAddress) -}}
{{- include "sse-gateway.fileSettings" (list . $config) -}}
{{- $_ := set $config.admin "listen" (printf "%s:9080" .Values.bindAddress) -}}
{{- include "sse-gateway.toml" (dict "table" $config "path" "") | trim -}}
{{- end -}}

{{- /* Milliseconds of a duration as the gateway reads it. Takes (list NAME VALUE). */}}
{{- define "sse-gateway.milliseconds" -}}
{{- $text := index . 1 | toString -}}
{{- if eq $text "0" -}}
0
{{- else if regexMatch "^[0-9]{1,9}(ms|s|m|h|d)$" $text -}}
{{- $factors := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- mul (regexFind "^[0-9]+" $text | atoi) (get $factors (regexFind "[a-z]+$" $text)) -}}
{{- else -}}
{{- fail (printf "%s is %q, which is not a duration such as 500ms, 15s or 1m." (index . 0) $text) -}}
{{- end -}}
{{- end -}}

{{- /* The drain is over when config.drain.grace is; the margin is for the end of the process. */}}
{{- define "sse-gateway.terminationGracePeriodSeconds" -}}
{{- $grace := include "sse-gateway.milliseconds" (list "config.drain.grace" .Values.config.drain.grace) | int64 -}}
{{- add (div (add $grace 999) 1000) 5 -}}
{{- end -}}
