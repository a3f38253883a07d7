"""What all tests share: how hard hypothesis tries. ``--hypothesis-profile=deep`` tries ten times harder."""

from hypothesis import settings

# No deadline: a busy machine is not a failure.
settings.register_profile("fedprune", deadline=None, max_examples=40)
settings.register_profile("deep", deadline=None, max_examples=400)
settings.load_profile("fedprune")
