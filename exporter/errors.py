"""What can go wrong, and who has to act.

::

    HeadroomError
      + UsageError             the operator must fix a flag or a file; every problem is listed; exit status 2
          + CredentialMissing  a key or certificate is not there, or not for this user: for the service it may be
      + SourceError            this reading failed; it is tried again at the next interval; ``reason`` is a metric label
          + SourceUnavailable  refused, timed out, no driver, no such file
              + RestartNeeded  and will be none until this process is started afresh
          + SourceMalformed    it answered, and the answer is not understood
"""

from collections.abc import Callable, Iterable


class HeadroomError(Exception):
    """Base of every error that this program raises on purpose."""


class UsageError(HeadroomError):
    """A flag, a config key or an input file is wrong; the message lists every problem, one a line."""


def require_all(calls: Iterable[Callable[[], object]]) -> None:
    """Make every call, also where one fails.

    Raises:
        UsageError: Lists what all of them say.
    """
    problems = []
    for call in calls:
        try:
            call()
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


class CredentialMissing(UsageError):  # noqa: N818 - states what is, like TimeoutExpired
    """A key or certificate is not there, or not for this user; systemd hands them over when the service starts."""


class SourceError(HeadroomError):
    """A source could not be read this time.

    Attributes:
        reason: A short fixed word or two that is safe as a metric label, such as ``timeout``.
        detail: The rest, for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class SourceUnavailable(SourceError):  # noqa: N818 - see above
    """There was no answer."""


class RestartNeeded(SourceUnavailable):
    """There was no answer, and this process cannot get one any more: a fresh one can."""


class SourceMalformed(SourceError):  # noqa: N818 - see above
    """There was an answer that is not understood: another program, another version, half a page."""
