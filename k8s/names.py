"""Names in Kubernetes: which are valid, and the name of a study's job."""

from __future__ import annotations

import re

MAX_JOB_NAME_LENGTH = 47
"""KubeRay appends to a job's name for Services and pods, whose names have at most 63 characters."""

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""A DNS-1123 label."""

SUBDOMAIN = r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""A DNS-1123 subdomain."""

DIGEST_DIGITS = 8
"""Hexadecimal digits of the digest at the end of a job's name."""

QUEUE_LABEL, ELASTIC_ANNOTATION = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
"""The label and the annotation of a job that Kueue reads."""


def label_of(study: str) -> str:
    """Return a study's name as the value of a label and the beginning of its job's name.

    Study names have up to 100 letters, digits, `.`, `_` and `-`. Two names may give one label: the digest makes a job's
    name unique, and the lock on the ledger keeps two drivers from running one study.
    """
    words = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    return words[: MAX_JOB_NAME_LENGTH - DIGEST_DIGITS - 1].rstrip("-") or "study"


def job_name(study: str, digest: str) -> str:
    """Return the name of a study's RayJob, which begins with a letter; the same request has the same name.

    Args:
        study: name of the study.
        digest: hexadecimal sha256 of everything that is submitted.
    """
    label = label_of(study)
    label = label if label[0].isalpha() else label_of(f"study-{label}")
    return f"{label}-{digest[:DIGEST_DIGITS]}"


def check_label(name: str) -> str:
    """Return the name if it is a DNS-1123 label.

    Raises:
        ValueError: it is not.
    """
    return _matching(LABEL, "at most 63 of a-z, 0-9 and `-`", name)


def check_subdomain(name: str) -> str:
    """Return the name if it is a DNS-1123 subdomain, as the names of most objects are.

    Raises:
        ValueError: it is not.
    """
    return _matching(SUBDOMAIN, "at most 253 of a-z, 0-9, `-` and `.`", name)


def _matching(pattern: str, expected: str, name: str) -> str:
    if re.fullmatch(pattern, name) is None:
        raise ValueError(f"expected {expected}, beginning and ending with a letter or digit (DNS-1123), found {name!r}")
    return name
