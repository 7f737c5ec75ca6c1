"""Settings that every test shares."""

import os

from hypothesis import HealthCheck, settings

# No deadline: a busy machine is slow now and then, and pytest ends a test that hangs.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples on every run, so that a failure is about the change and can be repeated.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
