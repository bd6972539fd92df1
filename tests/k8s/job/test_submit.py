"""Submit against a server that refuses, forgets and has something of that name already."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.client import Api
from k8s.errors import (
    Conflict,
    Forbidden,
    KubernetesError,
    Refused,
    Unauthorized,
    Unreachable,
)
from k8s.job.submit import submit
from k8s.manifest import Manifests, render
from k8s.request import Request
from tests.k8s.api_server import DROP, ApiServer
from tests.k8s.conftest import JOBS, NAMESPACED
from tests.k8s.study_files import request


def test_submitting_twice_is_one_job_whose_file_goes_with_it(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    assert submit(asked, manifests, api).is_new
    assert not submit(asked, manifests, api).is_new
    job, config_map = server.objects[f"{JOBS}/{manifests.name}"], f"{NAMESPACED}/configmaps/{manifests.name}"
    (owner,) = server.objects[config_map]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", job["metadata"]["uid"])


def test_same_overrides_in_another_order_are_the_same_job(tmp_path: Path, server: ApiServer, api: Api) -> None:
    overrides = ["study.num_students=9", "study.concurrency=2"]
    first, second = (request(tmp_path, None, *words) for words in (overrides, reversed(overrides)))
    assert submit(first, render(first), api).is_new
    assert not submit(second, render(second), api).is_new
    assert len([path for path in server.objects if path.startswith(JOBS)]) == 1


def test_unknown_fields_are_asked_to_be_refused_and_not_dropped(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    submit(asked, manifests, api)
    created = [path for method, path in server.asked if method == "POST"]
    assert all("fieldValidation=Strict" in path for path in created)


def test_second_request_for_a_study_that_runs_is_refused(
    tmp_path: Path, asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    submit(asked, manifests, api)
    changed = request(tmp_path, None, "study.num_students=99")
    with pytest.raises(KubernetesError, match=f"is run by the job {manifests.name} in studies"):
        submit(changed, render(changed), api)
    server.objects[f"{JOBS}/{manifests.name}"]["status"] = {"jobDeploymentStatus": "Failed"}
    assert submit(changed, render(changed), api).is_new, "one that has ended is in nobody's way"


def test_submit_that_died_half_way_is_finished_by_the_next(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    server.faults = [None, None, DROP]  # the list of jobs, the ConfigMap, and then the connection breaks
    with pytest.raises(Unreachable):
        submit(asked, manifests, api)
    assert f"{JOBS}/{manifests.name}" not in server.objects
    assert submit(asked, manifests, api).is_new
    assert server.objects[f"{NAMESPACED}/configmaps/{manifests.name}"]["metadata"]["ownerReferences"]


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (422, Refused), (401, Unauthorized)])
def test_refused_job_leaves_nothing_and_says_the_servers_words(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api, status: int, kind: type[Refused]
) -> None:
    server.faults = [None, None, status]

    def no_job(method: str, path: str) -> None:
        server.objects.pop(f"{JOBS}/{manifests.name}", None)

    server.on_request = no_job
    with pytest.raises(kind, match=rf"POST {JOBS}.*answers {status}: as the test wants it"):
        submit(asked, manifests, api)
    assert f"{NAMESPACED}/configmaps/{manifests.name}" not in server.objects


def test_job_of_that_name_that_somebody_else_made_is_left_alone(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    server.put(f"{NAMESPACED}/configmaps/{manifests.name}", data={"theirs": "1"})
    with pytest.raises(KubernetesError, match="was not made for this request"):
        submit(asked, manifests, api)


def test_job_submitted_while_the_last_one_s_file_is_still_being_taken_away_gets_its_own(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    path = f"{NAMESPACED}/configmaps/{manifests.name}"
    gone = [owner := {"name": manifests.name, "uid": "of the last job"}]
    server.objects[path] = {
        **manifests.config_map,
        "metadata": manifests.config_map["metadata"] | {"ownerReferences": gone},
    }

    def collected(method: str, where: str) -> None:
        if method == "PATCH":
            server.objects.pop(path, None)

    server.on_request = collected
    assert submit(asked, manifests, api).is_new
    assert server.objects[path]["metadata"]["ownerReferences"] != [owner]


def test_conflict_is_an_error_of_its_own(api: Api, server: ApiServer) -> None:
    server.faults = [409]
    with pytest.raises(Conflict):
        api.create(f"{NAMESPACED}/configmaps", {"metadata": {"name": "x"}})
