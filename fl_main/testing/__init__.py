"""What strategies are tested with: the laws that each must keep, for the table's and for your own."""

from fl_main.testing.conformance import LAWS, Cohort, Trial, check_strategy

__all__ = ["LAWS", "Cohort", "Trial", "check_strategy"]
