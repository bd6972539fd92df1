"""Check that MLflow is healthy and answers under its Service's name (403: --allowed-hosts does not list the name)."""

import sys
import urllib.request

for path in ("/health", "/api/2.0/mlflow/experiments/search?max_results=1"):
    with urllib.request.urlopen(sys.argv[1] + path, timeout=30) as answer:
        print(f"{sys.argv[1]}{path}: {answer.status}", flush=True)
