"""What goes wrong over HTTP, in this program's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3

from exporter.errors import SourceMalformed, SourceUnavailable


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what the HTTP libraries raise while ``url`` is read into our errors.

    Raises:
        SourceUnavailable: Refused, timed out, not trusted.
        SourceMalformed: What answers does not speak HTTP, or its answer is broken.
    """
    try:
        yield
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise SourceUnavailable("timeout", f"{url} gave no answer in time") from error
    except requests.exceptions.SSLError as error:
        raise SourceUnavailable("tls", f"{url}: its certificate is not trusted, or it does not speak TLS") from error
    except requests.exceptions.ConnectionError as error:
        raise SourceUnavailable("connection_refused", f"{url} cannot be reached") from error
    except requests.exceptions.RequestException as error:
        raise SourceMalformed("not_http", f"{url}: {type(error).__name__}") from error
    except OSError as error:  # requests raises it bare where the authority's file is gone
        raise SourceUnavailable("tls", f"{url}: {error}") from error
    except urllib3.exceptions.HTTPError as error:  # bodies are read past requests, which would translate this
        raise SourceMalformed("broken_body", f"{url}: {type(error).__name__}") from error
