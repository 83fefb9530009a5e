"""Mistakes planted on purpose, so that a check can be seen to fail."""

from equivalence.verdict.faults.catalogue import CATALOGUE, fault_named
from equivalence.verdict.faults.fault import DoesNotApply, Fault, Spot

__all__ = ["CATALOGUE", "DoesNotApply", "Fault", "Spot", "fault_named"]
