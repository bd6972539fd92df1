{{/* Fields of every pod that satisfy Pod Security `restricted`. Takes a dict: root, account, user, token (mounted). */}}
{{- define "hidfd.pod" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 1000 | int64 }}
  runAsGroup: {{ .user | default 1000 | int64 }}
  fsGroup: {{ .user | default 1000 | int64 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The security context of every container, and of those that KubeRay adds. */}}
{{- define "hidfd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Requests and limits, which are equal: a pod gets what the scheduler counted for it. Takes a dict: cpus, memory, gpus, gpuResource. */}}
{{- define "hidfd.resources" -}}
{{- range list "requests" "limits" }}
{{ . }}:
  cpu: {{ $.cpus | quote }}
  memory: {{ $.memory }}
  {{- if $.gpus }}
  {{ $.gpuResource }}: {{ $.gpus | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Nodes that a pod may run on. Takes a dict: nodeSelector, tolerations. */}}
{{- define "hidfd.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment by which libpq finds the database. Takes a dict: root, name (of the database, instead of the Secret's). */}}
{{- define "hidfd.databaseEnvironment" -}}
{{- range $variable, $key := dict "PGHOST" "host" "PGPORT" "port" "PGUSER" "username" "PGPASSWORD" "password" }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ include "hidfd.databaseSecret" $.root | quote }}, key: {{ $key }}}}
{{- end }}
- name: PGDATABASE
  {{- if .name }}
  value: {{ .name | quote }}
  {{- else }}
  valueFrom: {secretKeyRef: {name: {{ include "hidfd.databaseSecret" .root | quote }}, key: database}}
  {{- end }}
- name: PGSSLMODE
  value: {{ .root.Values.database.sslMode }}
{{- end }}

{{/* Environment by which AWS's clients find S3. Takes the root. */}}
{{- define "hidfd.s3Environment" -}}
{{- with .Values.storage.s3 }}
{{- if eq $.Values.storage.kind "s3" }}
- name: AWS_REGION
  value: {{ .region | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ .region | quote }}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
- name: MLFLOW_S3_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.Values.storage.s3.existingSecret | quote }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The store of studies and of MLflow's artifacts: a folder of the claim, or an address in S3. Takes a dict: root, folder. */}}
{{- define "hidfd.place" -}}
{{- $s3 := .root.Values.storage.s3 -}}
{{- if eq .root.Values.storage.kind "s3" -}}
s3://{{ list $s3.bucket $s3.prefix .folder | compact | join "/" }}
{{- else -}}
{{ list "/mnt/hidfd" .folder | compact | join "/" }}
{{- end -}}
{{- end }}
