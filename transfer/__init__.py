"""Transfer methods, the name-based transplant, and the metrics that say what was carried over."""

from transfer.method import METHODS, Built, TransferMethod, label
from transfer.transplant import transplant
from transfer.transplant_report import TransplantReport

__all__ = ["METHODS", "Built", "TransferMethod", "TransplantReport", "label", "transplant"]
