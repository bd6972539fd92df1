"""One cluster for all tests here, and a namespace for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local_cluster import Cluster, LocalCluster, fresh_namespace, local_cluster
from tests.cluster.real_cluster import real_cluster
from tests.cluster.tools import need_tools


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as `cluster`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A control plane, KubeRay's operator and one node of 8 CPUs on this machine."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), need_tools()) as running:
        yield running


@pytest.fixture
def namespace(cluster: LocalCluster) -> Iterator[str]:
    """The name of an empty namespace of `cluster`."""
    with fresh_namespace(cluster) as name:
        yield name


@pytest.fixture(scope="session")
def any_cluster(request: pytest.FixtureRequest) -> Cluster:
    """The real cluster that HIDFD_TEST_KUBECONFIG names, else `cluster`."""
    found: Cluster = real_cluster() or request.getfixturevalue("cluster")
    return found


@pytest.fixture
def any_namespace(any_cluster: Cluster) -> Iterator[str]:
    """The name of an empty namespace of `any_cluster`."""
    with fresh_namespace(any_cluster) as name:
        yield name
