"""Who answers in a round: one rule of availability per file, and the rules for those who did not."""

from fedlama.availability.always import Always
from fedlama.availability.base import Availability, Fate
from fedlama.availability.membership import Membership
from fedlama.availability.random_absence import RandomAbsence
from fedlama.availability.rules import Rules
from fedlama.availability.trace import Absence, Trace

__all__ = ["Absence", "Always", "Availability", "Fate", "Membership", "RandomAbsence", "Rules", "Trace"]
