"""Where Ray puts the actors by which a driver and its tasks write to each other."""

import pytest
import ray

from tests.integration.ray_nodes import ray_nodes
from tune.engines.ray_engine import start_actors

pytestmark = pytest.mark.integration

NUM_DRIVERS = 4
"""Chance would have all of one kind right once in 81 times."""


def test_mailboxes_and_results_are_beside_their_driver_though_its_node_has_no_processors() -> None:
    """Or a worker that is lost takes along what runs elsewhere, and the driver does not find what was written."""
    with ray_nodes() as nodes:
        workers = [nodes.add(1), nodes.add(1)]
        ray.init(address=nodes.address, log_to_driver=False)
        try:
            actors = [start_actors("results") for _ in range(NUM_DRIVERS)]
            assert ray.get([each.mailbox.read.remote("nobody") for each in actors]) == [None] * NUM_DRIVERS
            assert ray.get([each.results.lacks.remote({}) for each in actors]) == [[]] * NUM_DRIVERS
            for title in ("ray::Mailbox", "ray::ResultsFolder"):
                assert [nodes.actors(number, title) for number in workers] == [[], []]
                assert len(nodes.actors(0, title)) == NUM_DRIVERS
        finally:
            ray.shutdown()
