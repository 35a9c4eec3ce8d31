"""Certificate authorities that servers have of their own."""

import ssl
from pathlib import Path

from exporter.errors import UsageError


def require_authority(file: Path, url: str) -> None:
    """Look at an authority's certificates before anything is asked: later, a bad file reads as a server's fault.

    Args:
        file: In PEM form.
        url: Whose it is.

    Raises:
        UsageError: It cannot be used.
    """
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError too: it holds no certificate
        raise UsageError(f"ca_file of {url}: {file} cannot be read, or is not PEM") from error
