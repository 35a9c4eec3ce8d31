"""Certificate authorities that servers have of their own."""

import ssl
from pathlib import Path

from exporter.errors import CredentialMissing, UsageError


def require_authority(file: Path, url: str) -> None:
    """Look at an authority's certificates before anything is asked: later, a bad file reads as a server's fault.

    Args:
        file: In PEM form.
        url: Whose it is.

    Raises:
        CredentialMissing: It cannot be opened.
        UsageError: It holds no certificate.
    """
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        raise UsageError(f"ca_file of {url}: {file} is not PEM, or holds no certificate") from error
    except OSError as error:
        raise CredentialMissing(f"ca_file of {url}: {file} cannot be read") from error
