"""What can go wrong with a study rather than with a trial; the tree goes on from `hidfd.errors`.

    HidfdError
      LedgerError      7  the ledger cannot be opened, read or written, or belongs to a newer version
        LedgerHeld     8  another driver runs this study now
      StudyError       9  the study ended without a single result to show, or has none yet that could be handed over
      EngineError     10  Ray does not start, or the cluster of RAY_ADDRESS does not answer
      TrackingError   11  MLflow cannot be reached, or refuses; only of `promote`: a study goes on without it

A study that was stopped (Ctrl-C, SIGTERM) ends with 130, and the same command goes on.
"""

from hidfd.errors import HidfdError


class LedgerError(HidfdError):
    exit_code = 7


class LedgerHeld(LedgerError):
    """Another driver holds the study; the message says who, since when, and how to watch it."""

    exit_code = 8


class StudyError(HidfdError):
    exit_code = 9


class EngineError(HidfdError):
    exit_code = 10


class TrackingError(HidfdError):
    exit_code = 11
