"""Everything that is looked at before a study is submitted, so that nothing waits for ever or fails an hour later."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.client import Server
from k8s.errors import PreflightError, Refused, Unreachable
from k8s.preflight import access, nodes, provisions
from k8s.preflight import capacity as room
from k8s.preflight.check import Check, Checks, CheckStatus, unknown
from k8s.request import Request

FIRST: tuple[Checks, ...] = (access.api_server, access.kuberay, access.namespace)
"""Where one of these fails the others would only repeat it."""

REST: tuple[Checks, ...] = (
    access.permissions,
    room.quota,
    room.limit_range,
    nodes.nodes,
    room.pieces_of_work,
    provisions.study_file,
    provisions.image,
    provisions.material,
    provisions.places,
    provisions.claims,
    provisions.secrets,
    provisions.pull_secrets,
    provisions.accounts,
    provisions.scheduling,
    provisions.network_policies,
    access.job,
)


def preflight(request: Request, server: Server, *, dry_run: bool = True) -> list[Check]:
    """Look at everything.

    Args:
        dry_run: have the server try the job out, as `k8s.job.submit.dry_run` does.

    Raises:
        KubernetesError: the API server does not answer.
    """
    found = [check for checks in FIRST for check in _run(checks, request, server)]
    if any(check.status is CheckStatus.FAIL for check in found):
        return found
    rest = [checks for checks in REST if dry_run or checks is not access.job]
    return found + [check for checks in rest for check in _run(checks, request, server)]


def refuse_failed(found: list[Check]) -> None:
    """Nothing may start where a check failed.

    Raises:
        PreflightError: says each that did, and what to do.
    """
    wrong = [check for check in found if check.status is CheckStatus.FAIL]
    if wrong:
        words = "\n".join(f"  {check.name}: {check.found}\n    {check.todo}" for check in wrong)
        raise PreflightError(f"nothing was submitted:\n{words}")


def _run(checks: Checks, request: Request, server: Server) -> Iterator[Check]:
    try:
        yield from checks(request, server)
    except (Refused, Unreachable) as error:
        if checks is access.api_server and isinstance(error, Unreachable):
            raise
        yield unknown(checks.__name__.replace("_", " "), error)
