"""Studies on Kubernetes, as KubeRay jobs."""
