{{/* Host headers that MLflow takes, each with and without a port. Naming any drops MLflow's own, so localhost is here too. */}}
{{- define "hidfd.mlflowHosts" -}}
{{- $service := printf "%s-mlflow" (include "hidfd.fullname" .) -}}
{{- $names := list "localhost" "127.0.0.1" $service -}}
{{- range list "" ".svc" ".svc.cluster.local" -}}
{{- $names = append $names (printf "%s.%s%s" $service $.Release.Namespace .) -}}
{{- end -}}
{{- $hosts := list -}}
{{- range concat $names .Values.mlflow.allowedHosts -}}
{{- $hosts = concat $hosts (list . (printf "%s:*" .)) -}}
{{- end -}}
{{- $hosts | join "," -}}
{{- end }}

{{/* Fields that the server and its init containers share: MLflow finds its database by libpq's variables, so no address has a password. */}}
{{- define "hidfd.mlflowContainer" -}}
{{ include "hidfd.projectImage" . }}
securityContext: {{- include "hidfd.containerSecurity" . | nindent 2 }}
resources: {{- include "hidfd.resources" .Values.mlflow | indent 2 }}
env:
  - {name: HOME, value: /tmp}
  - {name: MLFLOW_DISABLE_TELEMETRY, value: "1"}
  # For evaluations of language models: eight processes, more memory than all the rest.
  - {name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION, value: "false"}
  {{- include "hidfd.databaseEnvironment" (dict "root" . "name" .Values.database.mlflowName) | indent 2 }}
  {{- include "hidfd.s3Environment" . | indent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: scripts, mountPath: /scripts, readOnly: true}
  {{- if eq .Values.storage.kind "claim" }}
  - {name: store, mountPath: /mnt/hidfd}
  {{- end }}
{{- end }}
