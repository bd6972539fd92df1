"""Where Ray puts the actor by which a driver writes to pieces of work."""

import pytest
import ray

from tests.integration.ray_nodes import ray_nodes
from tune.engine import start_actors

pytestmark = pytest.mark.integration

NUM_MAILBOXES = 4
"""Chance would have all of them right once in 81 times."""


def test_mailboxes_are_beside_their_driver_though_its_node_has_no_processors() -> None:
    """Or a worker that is lost takes along what runs elsewhere, and one that only has a mailbox is never idle."""
    with ray_nodes() as nodes:
        workers = [nodes.add(1), nodes.add(1)]
        ray.init(address=nodes.address, log_to_driver=False)
        try:
            boxes = [start_actors("results").mailbox for _ in range(NUM_MAILBOXES)]
            assert ray.get([box.read.remote("nobody") for box in boxes]) == [None] * NUM_MAILBOXES
            assert [nodes.mailboxes(number) for number in workers] == [[], []]
            assert len(nodes.mailboxes(0)) == NUM_MAILBOXES
        finally:
            ray.shutdown()
