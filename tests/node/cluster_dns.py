"""The cluster's DNS, and kube-proxy with it: a Service's name is answered with the addresses of the pods behind it.

    python -m tests.node.cluster_dns --server URL --authority FILE --listen ADDRESS

So no Service's own address is ever used, and clients have to use the ports of the pods, as the chart's Services do.
"""

import argparse
import contextlib
import socket
import struct
from pathlib import Path

from tests.cluster.api_client import ApiClient, ApiError

A, NO_SUCH_NAME = 1, 3

SUFFIXES = (["svc"], ["svc", "cluster", "local"])
"""Names of Services, exactly: resolvers also try longer ones."""

SECONDS = 1
"""Seconds for which a client may keep an answer: pods come and go."""


def addresses(api: ApiClient, name: str) -> list[str] | None:
    """Return the addresses of the ready pods behind a Service; None where there is no such Service."""
    parts = name.rstrip(".").split(".")
    if parts[2:] not in SUFFIXES:
        return None
    service, namespace = parts[:2]
    try:
        found = api.request("GET", f"/api/v1/namespaces/{namespace}/services/{service}")
    except ApiError:
        return None
    everyone = found["spec"].get("publishNotReadyAddresses", False)
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    listed = api.request("GET", f"{slices}?labelSelector=kubernetes.io/service-name={service}")["items"]
    return [
        address
        for each in listed
        for endpoint in each.get("endpoints") or ()
        for address in endpoint["addresses"]
        if everyone or endpoint.get("conditions", {}).get("ready")
    ]


def question_of(query: bytes) -> tuple[str, int, bytes]:
    """Return the name, the kind of record and the bytes of the question."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += query[at] + 1
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    return ".".join(labels), kind, query[12 : at + 5]


def answer(api: ApiClient, query: bytes) -> bytes:
    """Answer one query; only A records are known."""
    name, kind, question = question_of(query)
    found = addresses(api, name)
    given = (found or []) if kind == A else []
    flags = 0x8580 | (NO_SUCH_NAME if found is None else 0)
    records = [b"\xc0\x0c" + struct.pack(">HHIH", A, 1, SECONDS, 4) + socket.inet_aton(each) for each in given]
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(given), 0, 0) + question + b"".join(records)


def main() -> None:
    """Answer queries until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="address of the API server")
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--listen", required=True, help="address; the port is 53")
    given = parser.parse_args()
    api = ApiClient(given.server, given.authority, "admin")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((given.listen, 53))
        while True:
            query, sender = listening.recvfrom(2048)
            # A malformed query, or an API server that is away: the resolver asks again.
            with contextlib.suppress(OSError, IndexError, ValueError, struct.error, ApiError):
                listening.sendto(answer(api, query), sender)


if __name__ == "__main__":
    main()
