{{- /* With a revision, all of a control plane's objects carry it, so that two live side by side. */ -}}
{{- define "signet.name" -}}
signet-control-plane{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end }}

{{- define "signet.selector" -}}
app.kubernetes.io/name: signet-control-plane
app.kubernetes.io/instance: {{ include "signet.name" . }}
{{- end }}

{{- define "signet.labels" -}}
{{ include "signet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: signet
{{- end }}

{{- define "signet.host" -}}
{{ include "signet.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "signet.webhook" -}}
signet-injector-{{ .Release.Namespace }}{{ if .Values.revision }}-{{ .Values.revision }}{{ end }}
{{- end }}
