{{/* The head of a policy. Takes a dict: root, name, parts (that it is about), types. */}}
{{- define "hidfd.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "hidfd.fullname" .root }}-{{ .name }}
  labels: {{- include "hidfd.labels" (dict "root" .root "component" "network") | nindent 4 }}
spec:
  podSelector: {{- include "hidfd.parts" .parts | nindent 4 }}
  policyTypes: {{ toJson .types }}
{{- end }}

{{/* Selects pods of some parts, those of `k8s submit` too. */}}
{{- define "hidfd.parts" -}}
matchExpressions:
  - {key: hidfd/part, operator: In, values: {{ toJson . }}}
{{- end }}
