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
    """A cluster that is reached by its kubeconfig, whatever way of authentication that names."""

    def __init__(self, kubeconfig: Path) -> None:
        import kubernetes

        self._file = kubeconfig
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]

    def request(self, method: str, path: str, body: Any = None, *, content: str = JSON) -> Any:
        """Send a request and return the object in the answer."""
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
        """Return the path of the kubeconfig."""
        return self._file

    def wait(self, what: str, reached: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait until a condition holds; fail when time is up."""
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
    """Return the cluster that HIDFD_TEST_KUBECONFIG names; None where it is not set."""
    named = os.environ.get(VARIABLE)
    return RealCluster(Path(named)) if named else None
