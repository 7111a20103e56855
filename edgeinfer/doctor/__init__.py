"""What is wrong here, and the command that mends it."""

from edgeinfer.doctor.examine import CHECKS, examine
from edgeinfer.doctor.finding import Finding, Patient, Severity
from edgeinfer.doctor.user import user_of_unit

__all__ = ["CHECKS", "Finding", "Patient", "Severity", "examine", "user_of_unit"]
