{{/*
A worker group: what it says over workerDefaults, with what spot nodes and GPUs want. Gives YAML, for fromYaml.
Takes a dict: root, group.
*/}}
{{- define "hidfd.workerGroup" -}}
{{- $group := mergeOverwrite (deepCopy .root.Values.rayCluster.workerDefaults) (deepCopy .group) -}}
{{- if $group.spot -}}
{{- $spot := .root.Values.rayCluster.spot -}}
{{- $_ := set $group "nodeSelector" (merge (deepCopy $spot.nodeSelector) $group.nodeSelector) -}}
{{- $_ := set $group "tolerations" (concat $group.tolerations $spot.tolerations) -}}
{{- end -}}
{{- if $group.gpus -}}
{{- $taint := dict "key" $group.gpuResource "operator" "Exists" "effect" "NoSchedule" -}}
{{- $_ := set $group "tolerations" (append $group.tolerations $taint) -}}
{{- end -}}
{{- toYaml $group -}}
{{- end }}

{{/* Ray's share of shared memory, which falls back to a slow disk where it would not fit. Takes a pod's values. */}}
{{- define "hidfd.objectStore" -}}
object-store-memory: {{ mulf 0.8 (include "hidfd.bytes" .sharedMemory) | int64 | quote }}
{{- end }}

{{/*
The pod template of a Ray head or worker. KubeRay adds the command, and to workers an init container that copies
environment, mounts and security context of this one. Its metrics port is known to the PodMonitor by name.
Takes a dict: root, part (head, worker), account, group (its values), token.
*/}}
{{- define "hidfd.rayPod" -}}
{{- $values := .root.Values -}}
{{- $isHead := eq .part "head" -}}
metadata:
  labels: {{- include "hidfd.podLabels" (dict "root" .root "part" .part) | nindent 4 }}
  annotations:
    cluster-autoscaler.kubernetes.io/safe-to-evict: {{ .group.spot | default false | quote }}
spec:
  {{- include "hidfd.pod" . | nindent 2 }}
  {{- include "hidfd.placement" .group | indent 2 }}
  {{- if not $isHead }}
  terminationGracePeriodSeconds: {{ add $values.rayCluster.drainSeconds 10 }}
  {{- end }}
  containers:
    - name: ray-{{ .part }}
      {{- include "hidfd.projectImage" .root | nindent 6 }}
      securityContext: {{- include "hidfd.containerSecurity" . | nindent 8 }}
      resources: {{- include "hidfd.resources" .group | indent 8 }}
      ports:
        - {name: metrics, containerPort: 8080}
        {{- if $isHead }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
      {{- $health := dict "path" "/api/healthz" "port" 52365 }}
      startupProbe: {httpGet: {{ toJson $health }}, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: 60}
      livenessProbe: {httpGet: {{ toJson $health }}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 12}
      readinessProbe: {httpGet: {{ toJson $health }}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      {{- if not $isHead }}
      lifecycle:
        preStop:
          exec:
            command:
              - bash
              - -c
              - {{ .root.Files.Get "files/drain.sh" | quote }}
              - drain
              - {{ $values.rayCluster.drainSeconds | quote }}
      {{- end }}
      env:
        - {name: HIDFD_LEAVING, value: /tmp/hidfd-leaving}
        - {name: HOME, value: /tmp}
        - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
        {{- if $isHead }}
        {{- if $values.mlflow.enabled }}
        - {name: MLFLOW_TRACKING_URI, value: "http://{{ include "hidfd.fullname" .root }}-mlflow:5000"}
        {{- end }}
        {{- if include "hidfd.hasDatabase" .root }}
        {{- include "hidfd.databaseEnvironment" (dict "root" .root) | indent 8 }}
        - name: DB_PASSWORD
          valueFrom: {secretKeyRef: {name: {{ include "hidfd.databaseSecret" .root | quote }}, key: password}}
        {{- end }}
        {{- end }}
        {{- include "hidfd.s3Environment" .root | indent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- if eq $values.storage.kind "claim" }}
        - {name: store, mountPath: /mnt/hidfd}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ .group.scratch }}}
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: {{ .group.sharedMemory }}}
    {{- if eq $values.storage.kind "claim" }}
    - name: store
      persistentVolumeClaim: {claimName: {{ include "hidfd.claim" .root | quote }}}
    {{- end }}
{{- end }}
