"""Findings: one file, one rule.

A rule is a module with ``find(snapshot, report, policy)`` that yields `advisor.report.Finding`. Adding one is adding
its file: this package finds it by itself.
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from advisor.policy import Policy
from advisor.report import Finding, Report
from advisor.snapshot import Snapshot


@cache
def rules() -> tuple[ModuleType, ...]:
    """Return every rule module, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def findings(snapshot: Snapshot, report: Report, policy: Policy) -> tuple[Finding, ...]:
    """Return what all rules find, the most severe first."""
    order = {"critical": 0, "warning": 1, "info": 2}
    found = [finding for rule in rules() for finding in rule.find(snapshot, report, policy)]
    return tuple(sorted(found, key=lambda finding: (order[finding.severity], finding.rule, finding.subject)))
