{{- /* With a revision, all of a control plane's objects carry it, so that two live side by side. */ -}}
{{- define "signet.name" -}}
signet-control-plane{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end }}

{{- /* What has no namespace. Neither a namespace nor a revision has a dot in it, so that no two are called the same. */ -}}
{{- define "signet.clusterName" -}}
signet-control-plane.{{ .Release.Namespace }}{{ with .Values.revision }}.{{ . }}{{ end }}
{{- end }}

{{- define "signet.webhook" -}}
signet-injector.{{ .Release.Namespace }}{{ with .Values.revision }}.{{ . }}{{ end }}
{{- end }}

{{- /* The ConfigMap of each namespace with the mesh's roots. */ -}}
{{- define "signet.roots" -}}
signet-roots{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end }}

{{- define "signet.selector" -}}
app.kubernetes.io/name: signet-control-plane
app.kubernetes.io/instance: {{ include "signet.name" . | quote }}
{{- end }}

{{- define "signet.labels" -}}
{{ include "signet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: signet
{{- end }}

{{- /* The policy about what of a sidecar may change. */ -}}
{{- define "signet.sidecars" -}}
signet-sidecars.{{ .Release.Namespace }}{{ with .Values.revision }}.{{ . }}{{ end }}
{{- end }}

{{- /* As the API server calls it. */ -}}
{{- define "signet.host" -}}
{{ include "signet.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- /* As pods call it: to the end, since a resolver need not try a search list for a name with dots in it. */ -}}
{{- define "signet.address" -}}
{{ include "signet.host" . }}.{{ .Values.clusterDomain }}
{{- end }}

{{- /* An amount as a text: Helm reads numbers as floats, and writes large ones with an exponent. */ -}}
{{- define "signet.quantity" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else if eq (float64 .) (float64 (int64 .)) }}{{ int64 . | toString | quote }}{{ else }}{{ toString . | quote }}{{ end -}}
{{- end }}

{{- define "signet.resources" -}}
{{- range $side, $all := . }}
{{ $side }}:
  {{- range $name, $amount := $all }}
  {{ $name }}: {{ include "signet.quantity" $amount }}
  {{- else }} {}
  {{- end }}
{{- else }} {}
{{- end }}
{{- end }}

{{- /* DNS, and only the cluster's. */ -}}
{{- define "signet.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.dns.namespace | quote }}
      {{- with .Values.dns.podLabels }}
      podSelector:
        matchLabels:
          {{- range $key, $value := . }}
          {{ $key | quote }}: {{ $value | quote }}
          {{- end }}
      {{- end }}
    {{- range .Values.dns.cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
    {{- if ne (int .Values.dns.targetPort) 53 }}
    - {protocol: UDP, port: {{ int .Values.dns.targetPort }}}
    - {protocol: TCP, port: {{ int .Values.dns.targetPort }}}
    {{- end }}
{{- end }}
