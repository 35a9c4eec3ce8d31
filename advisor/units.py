"""Byte constants and their spelling for people."""

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def gib(size_bytes: float) -> str:
    """Spell a size as vLLM does, in GiB with two decimals."""
    return f"{size_bytes / GIB:,.2f} GiB"


def spelled_ratio(ratio: float) -> str:
    """Spell a ratio in whole per cent; what is not quite nothing and not quite all says so: ``<1%``, ``>99%``."""
    if 0 < ratio <= 0.005:
        return "<1%"
    if 0.995 <= ratio < 1:
        return ">99%"
    return f"{100 * ratio:.0f}%"


def spelled_growth(bytes_per_second: float) -> str:
    """Spell a growth with three digits: ``42.5 MiB an hour``, ``1.97 GiB an hour``, ``194 GiB an hour``."""
    an_hour = bytes_per_second * 3600
    size, unit = (an_hour / GIB, "GiB") if abs(an_hour) >= 0.1 * GIB else (an_hour / MIB, "MiB")
    return f"{size:,.0f} {unit} an hour" if abs(size) >= 100 else f"{size:.3g} {unit} an hour"


def spelled_seconds(seconds: float) -> str:
    """Spell a duration with its largest sensible unit: ``42 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
