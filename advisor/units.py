"""Byte constants and their spelling for people."""

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def gib(size_bytes: float) -> str:
    """Spell a size as vLLM does, in GiB with two decimals."""
    return f"{size_bytes / GIB:,.2f} GiB"


def spelled_seconds(seconds: float) -> str:
    """Spell a duration with its largest sensible unit: ``42 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
