"""Names in Kubernetes: what may be one, and how a study's job is called."""

from __future__ import annotations

import re

LONGEST_JOB_NAME = 47
"""KubeRay makes Services and pods of it, whose names have 63 characters."""

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""A DNS-1123 label."""

SUBDOMAIN = r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

DIGITS = 8


def label_of(study: str) -> str:
    """A study's name as a label's value and the beginning of its job's name.

    Study names have up to 100 letters, digits, `.`, `_` and `-`. Two names may give one label; a job's name is made
    unique by its digest, and who runs a study is decided by its ledger.
    """
    words = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    return words[: LONGEST_JOB_NAME - DIGITS - 1].rstrip("-") or "study"


def job_name(study: str, digest: str) -> str:
    """Of the RayJob of a study and what is asked for: the same request has the same name, which begins with a letter.

    Args:
        digest: hexadecimal, of everything that is submitted.
    """
    label = label_of(study)
    label = label if label[0].isalpha() else label_of(f"study-{label}")
    return f"{label}-{digest[:DIGITS]}"


def check_label(name: str) -> str:
    """Return the name if it is a DNS-1123 label.

    Raises:
        ValueError: it is none.
    """
    return _matching(LABEL, "at most 63 of a-z, 0-9 and `-`", name)


def check_subdomain(name: str) -> str:
    """Return the name if it is a DNS-1123 subdomain, as the names of most objects are.

    Raises:
        ValueError: it is none.
    """
    return _matching(SUBDOMAIN, "at most 253 of a-z, 0-9, `-` and `.`", name)


def _matching(pattern: str, expected: str, name: str) -> str:
    if re.fullmatch(pattern, name) is None:
        raise ValueError(f"expected {expected}, beginning and ending with a letter or digit (DNS-1123), found {name!r}")
    return name


QUEUE, ELASTIC = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
"""What Kueue reads on a job: a label and an annotation."""
