"""Which clients answer in a round: one rule of availability per file, and the rules for clients that did not."""

from fedlama.choices.availability.always import Always
from fedlama.choices.availability.base import Availability, Fate
from fedlama.choices.availability.membership import Attendance, Membership
from fedlama.choices.availability.random_absence import RandomAbsence
from fedlama.choices.availability.rules import Rules
from fedlama.choices.availability.trace import Absence, Trace

__all__ = [
    "Absence",
    "Always",
    "Attendance",
    "Availability",
    "Fate",
    "Membership",
    "RandomAbsence",
    "Rules",
    "Trace",
]
