{{- define "gateway.name" -}}
{{ default .Release.Name .Values.name }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: signet-gateway
app.kubernetes.io/instance: {{ include "gateway.name" . | quote }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: signet
{{- end }}

{{- /* As the control plane's chart calls it, with its revision. */ -}}
{{- define "gateway.controlPlane" -}}
signet-control-plane{{ with .Values.controlPlane.revision }}-{{ . }}{{ end }}.{{ .Values.controlPlane.namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "gateway.roots" -}}
signet-roots{{ with .Values.controlPlane.revision }}-{{ . }}{{ end }}
{{- end }}

{{- /* An amount as a text: Helm reads numbers as floats, and writes large ones with an exponent. */ -}}
{{- define "gateway.quantity" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else if eq (float64 .) (float64 (int64 .)) }}{{ int64 . | toString | quote }}{{ else }}{{ toString . | quote }}{{ end -}}
{{- end }}

{{- define "gateway.resources" -}}
{{- range $side, $all := . }}
{{ $side }}:
  {{- range $name, $amount := $all }}
  {{ $name }}: {{ include "gateway.quantity" $amount }}
  {{- else }} {}
  {{- end }}
{{- else }} {}
{{- end }}
{{- end }}
