"""Linux namespaces for a program: what containers are made of."""

import os


def unshare(*kinds):
    """Return the command that gives a program its own namespaces of these kinds ("pid", "net", ...)."""
    as_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *as_user, *(f"--{kind}" for kind in kinds), "--fork", "--kill-child")
