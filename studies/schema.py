"""Print the JSON Schema of a study file, for editors; each section comes from the package that reads it.

python -m studies.schema > studies/study.schema.json
"""

from __future__ import annotations

import json
from typing import Any

from hidfd.config.study_file import json_schema
from k8s.config import ClusterConfig
from tune.study.config import SearchConfig, StudyConfig


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a whole study file."""
    return json_schema(study=StudyConfig, search=SearchConfig, cluster=ClusterConfig)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
