"""Run all checks before a study is submitted, so that no pod waits for ever and no try fails an hour later."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.client import Server
from k8s.errors import PreflightError, Refused, Unreachable
from k8s.preflight import access, capacity, nodes, provisions
from k8s.preflight.check import Check, CheckFunction, CheckStatus, unknown
from k8s.request import Request

PREREQUISITES: tuple[CheckFunction, ...] = (access.api_server, access.kuberay, access.namespace)
"""Checks without which the others would only repeat what is missing."""

OTHER_CHECKS: tuple[CheckFunction, ...] = (
    access.permissions,
    capacity.quota,
    capacity.limit_range,
    nodes.nodes,
    capacity.task,
    provisions.study_file,
    provisions.image,
    provisions.material,
    provisions.storage,
    provisions.claims,
    provisions.secrets,
    provisions.pull_secrets,
    provisions.accounts,
    provisions.scheduling,
    provisions.network_policies,
    access.job,
)


def preflight(request: Request, server: Server, *, has_dry_run: bool = True) -> list[Check]:
    """Run all checks.

    Args:
        request: the study.
        server: the cluster.
        has_dry_run: whether the server is asked to try the job, as `k8s.job.submit.dry_run` does.

    Returns:
        All findings; only those of the prerequisites where one of them fails.

    Raises:
        KubernetesError: the API server does not answer.
    """
    found = [check for function in PREREQUISITES for check in _run(function, request, server)]
    if any(check.status is CheckStatus.FAIL for check in found):
        return found
    others = [function for function in OTHER_CHECKS if has_dry_run or function is not access.job]
    return found + [check for function in others for check in _run(function, request, server)]


def refuse_failed(found: list[Check]) -> None:
    """Refuse to submit where a check has failed.

    Raises:
        PreflightError: names every failed check, and what to do about it.
    """
    wrong = [check for check in found if check.status is CheckStatus.FAIL]
    if wrong:
        words = "\n".join(f"  {check.name}: {check.found}\n    {check.todo}" for check in wrong)
        raise PreflightError(f"nothing was submitted:\n{words}")


def _run(function: CheckFunction, request: Request, server: Server) -> Iterator[Check]:
    try:
        yield from function(request, server)
    except (Refused, Unreachable) as error:
        if function is access.api_server and isinstance(error, Unreachable):
            raise
        yield unknown(function.__name__.replace("_", " "), error)
