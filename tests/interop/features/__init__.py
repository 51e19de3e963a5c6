"""All features, in the order of the matrix's rows."""

from tests.interop.features import producing, consuming, groups, administration, faults, crossing  # noqa: I001 - the rows' order
from tests.interop.features.catalogue import FEATURES

__all__ = ["FEATURES", "administration", "consuming", "crossing", "faults", "groups", "producing"]
