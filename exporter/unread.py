"""Why a page could not be read, in a few words for the person who gave its address."""

import requests
import urllib3

UNREAD = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What reading a page raises; the second where its body is read past requests, which would translate it."""


def why_unread(error: Exception) -> str:
    """Return the cause: what libraries say of it names their own classes and pools."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"it answers {error.response.status_code}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted, or it does not speak TLS"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "its answer is broken"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
