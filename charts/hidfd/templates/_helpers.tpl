{{/* Name of every object: the release's name if it contains the chart's, else both. Short, as KubeRay appends to it. */}}
{{- define "hidfd.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select the pods of one part. Takes a dict: root, part. */}}
{{- define "hidfd.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
hidfd/part: {{ .part }}
{{- end }}

{{/* Labels of an object. Takes a dict: root, component. */}}
{{- define "hidfd.labels" -}}
{{- with .root.Values.labels }}{{ toYaml . }}
{{ end -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: hidfd
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Labels of a pod, without versions: a new chart alone restarts nothing. Takes a dict: root, part. */}}
{{- define "hidfd.podLabels" -}}
{{- with .root.Values.labels }}{{ toYaml . }}
{{ end -}}
{{ include "hidfd.selector" . }}
app.kubernetes.io/component: {{ .part }}
app.kubernetes.io/part-of: hidfd
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* An image with its digest, or else its tag. Takes a dict: image, tag (if the image has none). */}}
{{- define "hidfd.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end -}}
{{- end }}

{{/* image and imagePullPolicy of a container that runs the project's image. Takes the root. */}}
{{- define "hidfd.projectImage" -}}
image: {{ include "hidfd.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* Name of the Secret with the database's address and password. Takes the root. */}}
{{- define "hidfd.databaseSecret" -}}
{{ .Values.database.existingSecret | default (printf "%s-database" (include "hidfd.fullname" .)) }}
{{- end }}

{{/* Name of the claim with artifacts and checkpoints. Takes the root. */}}
{{- define "hidfd.claim" -}}
{{ .Values.storage.claim.existingClaim | default (printf "%s-store" (include "hidfd.fullname" .)) }}
{{- end }}

{{/* A quantity in bytes, to compare two: the server writes some of them in another way. Takes the quantity. */}}
{{- define "hidfd.bytes" -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 -}}
{{- $factors = merge $factors (dict "Ki" 0x1p10 "Mi" 0x1p20 "Gi" 0x1p30 "Ti" 0x1p40 "Pi" 0x1p50) -}}
{{- $suffix := regexFind "[A-Za-z]*$" . -}}
{{ mulf (trimSuffix $suffix .) (get $factors $suffix) }}
{{- end }}

{{/* Whether anything reaches the database. Takes the root. */}}
{{- define "hidfd.hasDatabase" -}}
{{- if ne .Values.database.kind "none" }}yes{{ end -}}
{{- end }}
