"""Everything that can go wrong for a user, as one tree, with the exit code of each branch.

    HidfdError          1  anything below; also a bug that reached the top with a message of its own
      ConfigError       2  the study file, an override or an argument is wrong
      InputError        3  the user's material (images, Parquet, checkpoint) cannot be used
      StoreError        4  the store is unwritable, full, damaged, or lacks what was asked for
      DeviceError       5  the device that was asked for is not there, or cannot do what was asked
      DivergedError     6  a loss or a gradient became non-finite; the trial ended, earlier artifacts are intact
      ProcessLostError 12  another process of the trial is lost; the same command goes on (7 to 11 are a study's)
      Stopped         130  Ctrl-C, SIGTERM or a verdict: saved, and the same command goes on

A message says what was found, where, what was expected and what to do. The command line prints it without a traceback.
"""


class HidfdError(Exception):
    """Base of every error that is the user's to read rather than ours to debug."""

    exit_code = 1


class ConfigError(HidfdError):
    exit_code = 2


class InputError(HidfdError):
    exit_code = 3


class StoreError(HidfdError):
    exit_code = 4


class DeviceError(HidfdError):
    exit_code = 5


class DivergedError(HidfdError):
    exit_code = 6


class ProcessLostError(HidfdError):
    exit_code = 12


class Stopped(HidfdError):
    """The run was asked to stop (Ctrl-C, SIGTERM, or a verdict) and has saved what the same command needs to go on."""

    exit_code = 130
