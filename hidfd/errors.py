"""The errors of a trial as one tree, with the exit code of each.

    HidfdError          1  base of all errors below
      ConfigError       2  the study file, an override or an argument is wrong
      InputError        3  the user's material (images, Parquet, checkpoint) cannot be used
        TeacherError    3  the teacher was read, but what it answers shows that something is wrong with it
        UnbuildableError 3 the settings ask more of the material than it has; with other settings it can be used
      StoreError        4  the store is unwritable, full or damaged, or lacks a requested artifact
        DamagedManifestError 4 the manifest of one artifact is damaged; it can be passed over by who does not need it
      DeviceError       5  the requested device does not exist, or cannot do what was requested
      OutOfMemoryError  5  the memory of the GPU or of the machine does not suffice; earlier artifacts are intact
      DivergedError     6  a loss or a gradient became non-finite; the trial ended, earlier artifacts are intact
      ExportError      17  a student cannot be converted, or answers otherwise afterwards (13 to 16 belong to `k8s`)
      ProcessLostError 12  another process of the trial is lost; the same command resumes (7 to 11 belong to `tune`)
      Stopped         130  stopped by Ctrl-C, SIGTERM or the planner; saved, and the same command resumes

A message says what was found, where, what was expected and what to do. The command line prints it without a traceback.
"""


class HidfdError(Exception):
    """Base of all errors with a message for the user, as opposed to bugs."""

    exit_code = 1


class ConfigError(HidfdError):
    exit_code = 2


class InputError(HidfdError):
    exit_code = 3


class TeacherError(InputError):
    """The teacher answers as a network that was read rightly does not. Everything depends on it, so a study ends."""


class UnbuildableError(InputError):
    """The settings ask more of the material than it has. A study goes on with trials of other settings."""


class StoreError(HidfdError):
    exit_code = 4


class DamagedManifestError(StoreError):
    """The manifest of one artifact is damaged; whoever does not need that artifact may pass it over."""


class DeviceError(HidfdError):
    exit_code = 5


class OutOfMemoryError(HidfdError):
    """The memory does not suffice for this trial. No `DeviceError`: a study goes on with trials that fit."""

    exit_code = 5


class DivergedError(HidfdError):
    exit_code = 6


class ExportError(HidfdError):
    """A finished student cannot be converted, or its exported network gives other answers."""

    exit_code = 17


class ProcessLostError(HidfdError):
    exit_code = 12


class Stopped(HidfdError):
    """Stop of a run on request (Ctrl-C, SIGTERM or the planner), after saving what the same command needs to resume."""

    exit_code = 130
