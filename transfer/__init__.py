"""Transfer methods, the name-based transplant, and the metrics that say what was carried over."""

from graft.transfer.method import METHODS, Built, TransferMethod, label
from graft.transfer.transplant import transplant
from graft.transfer.transplant_report import TransplantReport

__all__ = ["METHODS", "Built", "TransferMethod", "TransplantReport", "label", "transplant"]
