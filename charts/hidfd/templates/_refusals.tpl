{{/* The major version of the chart's PostgreSQL, by its tag. */}}
{{- define "hidfd.postgresqlMajor" -}}
{{ regexFind "^[0-9]+" .Values.database.image.tag }}
{{- end }}

{{/* Values that the chart's PostgreSQL reads only when it fills its claim, as annotations of the claim. Takes the root. */}}
{{- define "hidfd.readOnce" -}}
hidfd/existingSecret: {{ include "hidfd.databaseSecret" . | quote }}
hidfd/mlflowName: {{ .Values.database.mlflowName | quote }}
{{- if not .Values.database.existingSecret }}
hidfd/name: {{ .Values.database.name | quote }}
{{- end }}
hidfd/userId: {{ .Values.database.userId | int64 | quote }}
{{- end }}

{{/* Refusals of values that the schema lets pass but that cannot work: each says in one sentence what to do. Takes the root. */}}
{{- define "hidfd.refusals" -}}
{{- $values := .Values -}}
{{- $storage := $values.storage -}}
{{- $database := $values.database -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" (include "hidfd.fullname" .)) -}}
{{- fail (printf "the release's name %s begins the names of Services: choose one of lower-case letters, digits and -, which begins with a letter" .Release.Name) -}}
{{- end -}}
{{- if and $values.mlflow.enabled (eq $database.kind "none") -}}
{{- fail "mlflow.enabled needs a database: set database.kind to chart or external, or mlflow.enabled to false" -}}
{{- end -}}
{{- if and (eq $database.kind "external") (not $database.existingSecret) -}}
{{- fail "database.kind external needs database.existingSecret: a Secret with username, password, database, host and port" -}}
{{- end -}}
{{- if and (eq $database.kind "chart") (not (include "hidfd.postgresqlMajor" .)) -}}
{{- fail (printf "database.image.tag %q does not begin with PostgreSQL's major version: name one such as 17.6" $database.image.tag) -}}
{{- end -}}
{{- if and (eq $database.kind "chart") (eq $database.sslMode "require") -}}
{{- fail "the chart's own PostgreSQL offers no TLS: set database.sslMode to prefer, or database.kind to external" -}}
{{- end -}}
{{- if and (eq $storage.kind "s3") (not $storage.s3.bucket) -}}
{{- fail "storage.kind s3 needs storage.s3.bucket" -}}
{{- end -}}
{{- if and (eq $storage.kind "claim") (ne $storage.claim.accessMode "ReadWriteMany") (not $values.singleNode) -}}
{{- fail "a ReadWriteOnce claim serves pods of one node only: set storage.claim.accessMode to ReadWriteMany, or storage.kind to s3, or singleNode to true where there is only one" -}}
{{- end -}}
{{- if $values.rayCluster.enabled -}}{{- include "hidfd.rayRefusals" . -}}{{- end -}}
{{- if and $values.networkPolicies.enabled (not $values.networkPolicies.apiServer.to) -}}
{{- if and $values.rayCluster.enabled $values.rayCluster.autoscaling.enabled -}}
{{- fail "rayCluster.autoscaling needs the API server: name its address in networkPolicies.apiServer.to (kubectl get endpointslices -n default kubernetes)" -}}
{{- end -}}
{{- if $values.tests.clusterScope -}}
{{- fail "tests.clusterScope needs the API server: name its address in networkPolicies.apiServer.to (kubectl get endpointslices -n default kubernetes)" -}}
{{- end -}}
{{- end -}}
{{- include "hidfd.migrations" . -}}
{{- end }}

{{/* Refusals of worker groups. */}}
{{- define "hidfd.rayRefusals" -}}
{{- $ray := .Values.rayCluster -}}
{{- if not $ray.workerGroups -}}
{{- fail "rayCluster.enabled needs a group in rayCluster.workerGroups, such as {cpu: {}}: trials run on workers only" -}}
{{- end -}}
{{- include "hidfd.memoryRefusal" (dict "where" "rayCluster.head" "pod" $ray.head) -}}
{{- range $name, $values := $ray.workerGroups -}}
{{- $group := include "hidfd.workerGroup" (dict "root" $ "group" $values) | fromYaml -}}
{{- $where := printf "rayCluster.workerGroups.%s" $name -}}
{{- include "hidfd.memoryRefusal" (dict "where" $where "pod" $group) -}}
{{- if and $group.gpus (not $group.gpuResource) -}}
{{- fail (printf "%s asks for GPUs: say in gpuResource what the cluster calls them, such as nvidia.com/gpu" $where) -}}
{{- end -}}
{{- if and $group.spot (not $ray.spot.nodeSelector) (not $ray.spot.tolerations) -}}
{{- fail (printf "%s is spot: say in rayCluster.spot.nodeSelector or .tolerations how such nodes are known" $where) -}}
{{- end -}}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) -}}
{{- fail (printf "%s: minReplicas %v is above maxReplicas %v" $where $group.minReplicas $group.maxReplicas) -}}
{{- end -}}
{{- if or (lt (int $group.replicas) (int $group.minReplicas)) (gt (int $group.replicas) (int $group.maxReplicas)) -}}
{{- fail (printf "%s: replicas %v is not within minReplicas %v and maxReplicas %v" $where $group.replicas $group.minReplicas $group.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Refusal of more shared memory than memory. Takes a dict: where, pod (its values). */}}
{{- define "hidfd.memoryRefusal" -}}
{{- if gt (include "hidfd.bytes" .pod.sharedMemory | float64) (include "hidfd.bytes" .pod.memory | float64) -}}
{{- fail (printf "%s: sharedMemory %s is a part of memory, which is %s: raise memory, or lower sharedMemory" .where .pod.sharedMemory .pod.memory) -}}
{{- end -}}
{{- end }}

{{/* Refusals of upgrades that would leave data behind. `lookup` finds nothing offline, and then nothing is refused. */}}
{{- define "hidfd.migrations" -}}
{{- $fullname := include "hidfd.fullname" . -}}
{{- $database := .Values.database -}}
{{- $claim := printf "data-%s-database-0" $fullname -}}
{{- with lookup "v1" "PersistentVolumeClaim" .Release.Namespace $claim -}}
{{- $pod := printf "%s-database-0" $fullname -}}
{{- $dump := printf "kubectl exec -n %s %s -- sh -c 'pg_dumpall -U $POSTGRES_USER' > all.sql" $.Release.Namespace $pod -}}
{{- $major := get (.metadata.labels | default dict) "hidfd/postgresql-major" -}}
{{- if ne $database.kind "chart" -}}
{{- fail (printf "\n\ndatabase.kind is %s, but the claim %s still holds this release's ledger and MLflow's runs.\n1. Stop all studies.\n2. Save: %s\n3. Load all.sql into the other server with psql, if there is one.\n4. Delete the old one: kubectl delete -n %s statefulset/%s-database pvc/%s\n5. Run this upgrade again.\n" $database.kind $claim $dump $.Release.Namespace $fullname $claim) -}}
{{- end -}}
{{- $wanted := include "hidfd.postgresqlMajor" $ -}}
{{- $delete := printf "kubectl delete -n %s statefulset/%s-database" $.Release.Namespace $fullname -}}
{{- $begin := printf "1. Stop all studies.\n2. Save: %s" $dump -}}
{{- $end := printf "3. Delete the old one: %s pvc/%s\n4. Run this upgrade with --set mlflow.enabled=false, which starts an empty server.\n5. Load: kubectl exec -i -n %s %s -- sh -c 'psql -U $POSTGRES_USER -d postgres' < all.sql (what is there already is reported and stays).\n6. Run this upgrade again: MLflow migrates its database and starts.\nOr stay: --set database" $delete $claim $.Release.Namespace $pod -}}
{{- if and $major (ne $major $wanted) -}}
{{- fail (printf "\n\nPostgreSQL %s cannot open what PostgreSQL %s wrote into the claim %s.\n%s\n%s.image.tag=%s\n" $wanted $major $claim $begin $end $major) -}}
{{- end -}}
{{- $annotations := .metadata.annotations | default dict -}}
{{- range $key, $value := include "hidfd.readOnce" $ | fromYaml -}}
{{- $was := get $annotations $key -}}
{{- if and $was (ne $was $value) -}}
{{- $name := trimPrefix "hidfd/" $key -}}
{{- $begin = replace "pg_dumpall" "pg_dumpall --no-role-passwords" $begin -}}
{{- fail (printf "\n\ndatabase.%s is %s, but the claim %s was filled with %s, and PostgreSQL reads that only then.\n%s, and write a database's new name into it.\n%s.%s=%s\nOr, where the server has been changed by hand (ALTER ROLE, ALTER DATABASE):\n1. kubectl annotate --overwrite -n %s pvc/%s %s=%s\n2. %s --cascade=orphan, which leaves the server running.\n3. Run this upgrade again.\n" $name $value $claim $was $begin $end $name $was $.Release.Namespace $claim $key $value $delete) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $database.kind "chart" -}}
{{- $server := printf "%s-database" $fullname -}}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $server -}}
{{- $size := (index .spec.volumeClaimTemplates 0).spec.resources.requests.storage -}}
{{- if ne (include "hidfd.bytes" $size) (include "hidfd.bytes" $database.size) -}}
{{- fail (printf "\n\nKubernetes does not change the size of %s from %s to %s by itself.\n1. kubectl patch -n %s pvc/%s -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":%q}}}}'\n2. kubectl delete -n %s statefulset/%s --cascade=orphan, which leaves the server running.\n3. Run this upgrade again.\n" $claim $size $database.size $.Release.Namespace $claim $database.size $.Release.Namespace $server) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $store := printf "%s-store" $fullname -}}
{{- if or (ne .Values.storage.kind "claim") .Values.storage.claim.existingClaim -}}
{{- if and .Release.IsUpgrade (ne .Values.storage.claim.existingClaim $store) -}}
{{- with lookup "v1" "PersistentVolumeClaim" .Release.Namespace $store -}}
{{- fail (printf "\n\nThe claim %s still holds this release's artifacts, and storage now names another place.\n1. Stop all studies.\n2. Copy all of the claim there.\n3. Delete it: kubectl delete -n %s pvc/%s\n4. Run this upgrade again.\n" $store $.Release.Namespace $store) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.storage.claim.existingClaim -}}
{{- with lookup "v1" "PersistentVolumeClaim" $.Release.Namespace . -}}
{{- if and (not (has "ReadWriteMany" .spec.accessModes)) (not $.Values.singleNode) -}}
{{- fail (printf "the claim %s is not ReadWriteMany, and serves pods of one node only: name another one, or set singleNode to true where there is only one" .metadata.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
