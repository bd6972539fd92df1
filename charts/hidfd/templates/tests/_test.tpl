{{/* A pod of `helm test`. Takes a dict: root, name, command; if wanted database, store; account (whose token it has). */}}
{{- define "hidfd.test" -}}
{{- $values := .root.Values -}}
{{- $fullname := include "hidfd.fullname" .root -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ $fullname }}-test-{{ .name }}
  labels: {{- include "hidfd.podLabels" (dict "root" .root "part" "test") | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  {{- $account := .account | default (printf "%s-worker" $fullname) }}
  {{- include "hidfd.pod" (dict "root" .root "account" $account "token" (hasKey . "account")) | nindent 2 }}
  restartPolicy: Never
  activeDeadlineSeconds: 300
  containers:
    - name: test
      {{- include "hidfd.projectImage" .root | nindent 6 }}
      command: {{ toJson .command }}
      securityContext: {{- include "hidfd.containerSecurity" . | nindent 8 }}
      resources: {{- include "hidfd.resources" $values.tests | indent 8 }}
      env:
        - {name: HOME, value: /tmp}
        {{- if .database }}
        {{- include "hidfd.databaseEnvironment" (dict "root" .root) | indent 8 }}
        {{- end }}
        {{- if .store }}
        {{- include "hidfd.s3Environment" .root | indent 8 }}
        {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: scripts, mountPath: /scripts, readOnly: true}
        {{- if and .store (eq $values.storage.kind "claim") }}
        - {name: store, mountPath: /mnt/hidfd}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: scripts
      configMap: {name: {{ $fullname }}-scripts}
    {{- if and .store (eq $values.storage.kind "claim") }}
    - name: store
      persistentVolumeClaim: {claimName: {{ include "hidfd.claim" .root | quote }}}
    {{- end }}
{{- end }}
