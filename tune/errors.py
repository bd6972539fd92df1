"""Errors of a study, with their exit codes; they extend the tree of `hidfd.errors`.

    HidfdError
      LedgerError      7  the ledger cannot be opened, read or written, or belongs to a newer version
        ConnectionLost 7  its database does not answer now; a running driver waits for it
        LedgerGone     7  it was deleted, moved or replaced; a running driver ends
        OtherLedger    7  what the study left in store, results folder or MLflow belongs to another ledger of its name
        StudyLocked    8  another driver runs this study now
      StudyBlocked        a task met an error that the user has to mend; its exit code is that of the task's error
      StudyError       9  the study ended without a finished student, or has no champion that `promote` would register
      EngineError     10  Ray does not start, or the cluster of RAY_ADDRESS does not answer
      TrackingError   11  MLflow cannot be reached, or refuses; a running study goes on without it

A study that was stopped (Ctrl-C, SIGTERM) ends with 130, and the same command goes on.
"""

from __future__ import annotations

from hidfd.errors import HidfdError


class LedgerError(HidfdError):
    """The ledger cannot be opened, read or written, or was written by a newer version."""

    exit_code = 7


class ConnectionLost(LedgerError):
    """The ledger's database does not answer now, which is no fault of the study; a running driver waits for it."""


class LedgerGone(LedgerError):
    """The ledger, or the study in it, was deleted, moved or replaced; waiting for it would be in vain."""


class OtherLedger(LedgerError):
    """The study's name is taken in store, results folder or MLflow by another ledger, or a newer copy of this one."""


class StudyLocked(LedgerError):
    """Another driver runs the study; the message says which process, and since when."""

    exit_code = 8

    @classmethod
    def by(cls, holder: str, name: str) -> StudyLocked:
        """Return the error for the study `name`, which is run by `holder`."""
        return cls(f"study {name!r} is run by {holder}")


class StudyBlocked(HidfdError):
    """A task met an error that the user has to mend before the study goes on (`tune.study.messages.TaskBlocked`)."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class StudyError(HidfdError):
    """The study ended without a finished student, or has no champion to promote, or one that a control has beaten."""

    exit_code = 9


class EngineError(HidfdError):
    """Ray does not start, or does not answer, or the cluster cannot run the study's tasks."""

    exit_code = 10


class TrackingError(HidfdError):
    """MLflow cannot be reached, or refuses."""

    exit_code = 11
