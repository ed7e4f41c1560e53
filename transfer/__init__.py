"""Transfer methods, the name-based transplant, and the metrics that say what was carried over."""

from transfer.method import METHODS, Built, TransferMethod, label
from transfer.transplant import TransplantReport, transplant

__all__ = ["METHODS", "Built", "TransferMethod", "TransplantReport", "label", "transplant"]
