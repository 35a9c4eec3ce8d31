"""Why a page could not be read, in a few words for the person who gave its address."""

import requests


def why_unread(error: Exception) -> str:
    """Return the cause: what libraries say of it names their own classes and pools."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"it answers {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted, or it does not speak TLS"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
