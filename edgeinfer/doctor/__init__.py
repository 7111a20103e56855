"""What is wrong here, and the command that mends it."""

from edgeinfer.doctor.examine import CHECKS, examine
from edgeinfer.doctor.finding import Finding, Patient, Severity

__all__ = ["CHECKS", "Finding", "Patient", "Severity", "examine"]
