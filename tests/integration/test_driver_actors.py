"""The node on which Ray puts the actors between a driver and its tasks."""

import pytest
import ray

from tests.integration.ray_nodes import ray_nodes
from tune.engines.ray_engine import start_actors

pytestmark = pytest.mark.integration

NUM_DRIVERS = 4
"""Number of drivers: by chance, all actors of one kind are on the right one of three nodes once in 81 times."""


def test_actors_are_beside_their_driver_though_its_node_has_no_processors() -> None:
    """Otherwise a lost node would end the tasks of other nodes too, and the driver would not find its results."""
    with ray_nodes() as nodes:
        workers = [nodes.add(1), nodes.add(1)]
        ray.init(address=nodes.address, log_to_driver=False)
        try:
            actors = [start_actors("results") for _ in range(NUM_DRIVERS)]
            assert ray.get([each.stop_requests.read.remote("nobody") for each in actors]) == [None] * NUM_DRIVERS
            assert ray.get([each.results_receiver.outdated.remote({}) for each in actors]) == [[]] * NUM_DRIVERS
            for title in ("ray::StopRequests", "ray::ResultsReceiver"):
                assert [nodes.actors(number, title) for number in workers] == [[], []]
                assert len(nodes.actors(0, title)) == NUM_DRIVERS
        finally:
            ray.shutdown()
