"""A real cluster, for the tests that need nothing of this machine: HIDFD_TEST_KUBECONFIG names its kubeconfig.

Not KUBECONFIG: whoever runs the tests may have that set to a cluster that others work on.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.api_client import JSON, ApiError

VARIABLE = "HIDFD_TEST_KUBECONFIG"


class RealCluster:
    """Reached as its kubeconfig says, whatever way of authentication that is."""

    def __init__(self, kubeconfig: Path) -> None:
        import kubernetes

        self._file = kubeconfig
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]

    def request(self, method: str, path: str, body: Any = None, *, content: str = JSON) -> Any:
        """The object that the API server answers with."""
        headers = {"Accept": JSON, "Content-Type": content}
        call = self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = self._client.call_api(*call, _request_timeout=60)
        data = response.read()
        if response.status >= 300:
            raise ApiError(response.status, data)
        return json.loads(data)

    def kubeconfig(self) -> Path:
        """The file that was named."""
        return self._file

    def wait(self, what: str, reached: Callable[[], bool], seconds: float = 300.0) -> None:
        """Returns when it is so, fails when time is up."""
        until = time.monotonic() + seconds
        refused = ""
        while True:
            try:
                if reached():
                    return
                refused = ""
            except ApiError as refusal:
                refused = f"; {refusal}"
            assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s{refused}"
            time.sleep(1.0)


def real_cluster() -> RealCluster | None:
    """The one that is named; None if none is."""
    named = os.environ.get(VARIABLE)
    return RealCluster(Path(named)) if named else None
