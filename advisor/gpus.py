"""NVIDIA GPUs by name: what CUDA shows as their total, what they can compute, and the slices MIG makes of them."""

import re
from dataclasses import dataclass
from functools import cache

from advisor.calibration.gpus import MIG, ROWS, SEEN, Profile, Row, driver_mib
from advisor.estimate import Estimate
from advisor.units import GIB, MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuModel:
    """One board, or one MIG slice of it."""

    name: str
    """Distinct: boards that share a product name carry their size."""
    compute_capability: tuple[int, int]
    num_sms: int
    """Streaming multiprocessors."""
    cuda_total: Estimate
    """Total in bytes that CUDA shows on Linux, which is what vLLM takes its share of."""
    nvml_total_bytes: int | None
    """Total that ``nvidia-smi`` shows, and CUDA too under Windows and WSL; None for a slice and where it shows none."""
    source: str
    """Link to where the total was seen; ``derived`` where it follows from the board's size."""
    mig_profile: str | None = None
    mig_profiles: tuple[str, ...] = ()
    """Slices this board can be divided into."""


class UnknownGpuError(ValueError):
    """No board, or more than one, answers to the name; the message says which names would."""


def find_gpu(name: str) -> GpuModel:
    """Return the board that a name means, however it is spelled.

    Maker, brand, case, hyphens and memory kind make no difference (``NVIDIA H100 80GB HBM3``, ``h100``, ``rtx4090``,
    ``A100-SXM4-80GB``); a MIG profile anywhere in it selects that slice (``H100 MIG 1g.10gb``).

    Raises:
        UnknownGpuError: Nothing by that name, with the nearest names, or several boards, with all of theirs.
    """
    profile, words = _words(name)
    found = [row for row in _candidates(words) if profile is None or profile in _profiles(row)]
    if len(found) == 1:
        return _slice(found[0], profile) if profile else _board(found[0])
    if found:
        names = " or ".join(_with_profile(row, profile) for row in found)
        raise UnknownGpuError(f"{name!r} is more than one GPU: {names}")
    boards = _candidates(words)
    if boards:
        known = ", ".join(_profiles(boards[0])) or "none"
        raise UnknownGpuError(f"{name!r}: {_title(boards[0])} has no MIG profile {profile}; it has {known}")
    raise UnknownGpuError(f"no GPU is known as {name!r}; the nearest names are {', '.join(_nearest(words))}")


def compute_capability(name: str) -> tuple[int, int] | None:
    """Return what all boards of this name can compute, None where none is known or they differ."""
    capabilities = {row.capability for row in _candidates(_words(name)[1])}
    return capabilities.pop() if len(capabilities) == 1 else None


@cache
def num_sms(name: str) -> int | None:
    """Return the streaming multiprocessors of all boards of this name, None where none is known or they differ."""
    counts = {row.sms for row in _candidates(_words(name)[1])}
    return counts.pop() if len(counts) == 1 else None


def known_gpus() -> tuple[GpuModel, ...]:
    """Return every board of the catalogue, without slices."""
    return tuple(_board(row) for row in ROWS)


_IGNORED = frozenset(
    {"nvidia", "geforce", "tesla", "rtx", "gtx", "gpu", "graphics", "card", "edition", "generation", "tensor", "core"}
    | {"device", "mig", "hbm2", "hbm2e", "hbm3", "hbm3e", "gddr6", "gddr6x", "gddr7"}
)
"""What a name may say without saying which board is meant."""
_MIG = re.compile(r"\b(\d)g\.(\d+)gb(?:\+\S+)?")
_SIZE = re.compile(r"(?<![\w.])(\d+)\s*(?:gib|gb|g)\b")
_GLUED = re.compile(r"\b(rtx|gtx)(?=\w*\d)|(?<=\d{4})(?=(?:ti(?:super)?|d|super)\b)|(?<=ti)(?=super\b)")
_FORM = re.compile(r"\b(?:(sxm)\d*|(pci)(?:-?e)?)\b")


def _words(name: str) -> tuple[str | None, frozenset[str]]:
    """Return the MIG profile in a name, if any, and the words that tell boards apart."""
    text = name.casefold()
    match = _MIG.search(text)
    if match is not None:
        text = text[: match.start()] + " " + text[match.end() :]
    text = _GLUED.sub(lambda found: f"{found[1] or ''} ", text)
    text = _SIZE.sub(r" \1gb ", text.replace("max-q", "maxq"))
    text = _FORM.sub(lambda found: "sxm" if found[1] else "pcie", re.sub(r"[-_(),/]", " ", text))
    words = frozenset(text.split()) - _IGNORED
    return (f"{match[1]}g.{match[2]}gb" if match else None), words


@dataclass(frozen=True, slots=True)
class _Known:
    row: Row
    names: tuple[frozenset[str], ...]
    """Each of its names."""
    cores: tuple[frozenset[str], ...]
    """Each of its names without a size: what has to be said."""
    whole: frozenset[str]
    """All that may be said."""


@cache
def _known() -> tuple[_Known, ...]:
    entries = []
    for row in ROWS:
        names = tuple(_words(each)[1] for each in row.name.split("|"))
        # A name that differs from its twin by the size alone is complete only with it.
        cores = names if len(names) > 1 else (frozenset(word for word in names[0] if not re.fullmatch(r"\d+gb", word)),)
        entries.append(_Known(row, names, cores, frozenset().union(*names, _words(row.also)[1])))
    return tuple(entries)


def _candidates(words: frozenset[str]) -> list[Row]:
    if not words:
        return []
    exact = [each.row for each in _known() if words in each.names]
    if exact:
        return exact
    possible = [each for each in _known() if words <= each.whole]
    said = [each.row for each in possible if any(core <= words for core in each.cores)]
    return said or [each.row for each in possible]


def _nearest(words: frozenset[str]) -> list[str]:
    import difflib

    spelled = {" ".join(sorted(each.names[0])): _title(each.row) for each in _known()}
    close = difflib.get_close_matches(" ".join(sorted(words)), spelled, n=5, cutoff=0.0)
    return [spelled[each] for each in close]


def _title(row: Row) -> str:
    return row.name.partition("|")[0]


def _with_profile(row: Row, profile: str | None) -> str:
    return f"{_title(row)} MIG {profile}" if profile else _title(row)


def _profiles(row: Row) -> tuple[str, ...]:
    return tuple(each.name for each in MIG.get(_title(row), ((), ""))[0])


def _board(row: Row) -> GpuModel:
    if row.total_gib is None:
        held = driver_mib(row.nvml_mib)
        low, expected, high = ((row.nvml_mib - share * held) * MIB for share in (1.5, 1.0, 0.5))
        source = "derived"
    else:
        low, expected, high = (each * GIB for each in row.total_gib)
        source = SEEN.format(gib=row.total_gib[1]) if row.source == "seen" else row.source
    return GpuModel(
        name=_title(row),
        compute_capability=row.capability,
        num_sms=row.sms,
        cuda_total=Estimate(lower=round(low), expected=round(expected), upper=round(high)),
        nvml_total_bytes=row.nvml_mib * MIB or None,
        source=source,
        mig_profiles=_profiles(row),
    )


def _slice(row: Row, profile: str) -> GpuModel:
    board = _board(row)
    profiles, source = MIG[board.name]
    found = next(each for each in profiles if each.name == profile)
    return GpuModel(
        name=f"{board.name} MIG {profile}",
        compute_capability=row.capability,
        num_sms=found.sms,
        cuda_total=_slice_total(board, found),
        nvml_total_bytes=None,
        source=source if found.total_gib is not None else "derived",
        mig_profile=profile,
    )


def _slice_total(board: GpuModel, profile: Profile) -> Estimate:
    """Return a slice's total: as listed, else its share of the board's, less what MIG rounds down.

    The listed slices are 91% (H200, 1 of 8) to 99% (H100, all sizes) of their share.
    """
    if profile.total_gib is not None:
        listed = profile.total_gib * GIB
        return Estimate(lower=round(listed - 0.15 * GIB), expected=round(listed), upper=round(listed + 0.15 * GIB))
    share = profile.eighths / 8
    return Estimate(
        lower=round(share * 0.905 * board.cuda_total.lower),
        expected=round(share * 0.975 * board.cuda_total.expected),
        upper=round(share * board.cuda_total.upper),
    )
