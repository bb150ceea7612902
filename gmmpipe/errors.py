"""The errors that a user of gmmpipe can mend, or has to know.

    GmmpipeError(Exception)    a job cannot go on; the message is one line: cause, file, remedy
    ├── ManifestError          no manifest, or one that cannot be read
    ├── AudioError             one utterance gives no features; carries a reject reason
    ├── StoreError             a store is missing, unfinished, corrupt or made with other options
    ├── CheckpointError        a model file cannot be read, or belongs to another fit
    ├── OptionError            options that contradict each other or the data
    ├── ClaimError             another process is writing something else into the output folder
    └── RankError              another rank has failed; its own error says why
        └── RankGoneError           another rank was killed, or does not answer any more
            └── NoAnswerError           this rank is to stop, and another one does not answer
    Stopped(BaseException)     a signal asked the job to end; everything finished so far is kept

Any other exception (``AssertionError``, ``TypeError``, ...) is a bug of gmmpipe.
"""


class GmmpipeError(Exception):
    """A job cannot go on. The message is one line that names the cause and the file."""


class ManifestError(GmmpipeError):
    """There is no manifest, or it cannot be read."""


class AudioError(GmmpipeError):
    """One utterance gives no features.

    Args:
        reason: a word of `gmmpipe.store.rejects.REJECT_REASONS`.
        detail: what was seen, free of absolute paths (it is stored, and stores are portable).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class StoreError(GmmpipeError):
    """A store is missing, unfinished, corrupt, or made with other options."""


class CheckpointError(GmmpipeError):
    """A model file cannot be read, or belongs to another fit."""


class OptionError(GmmpipeError):
    """Options contradict each other or the data."""


class ClaimError(GmmpipeError):
    """Another process is writing something else into the output folder."""


class RankError(GmmpipeError):
    """Another rank has failed; its own error says why."""


class RankGoneError(RankError):
    """Another rank was killed, or does not answer any more: no exchange is possible now."""


class NoAnswerError(RankGoneError):
    """This rank is to stop, and another one does not come to where all ranks could stop alike."""


class Stopped(BaseException):
    """A signal asked the job to end. Not an `Exception`, like `KeyboardInterrupt`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
