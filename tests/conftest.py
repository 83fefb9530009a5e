"""Hypothesis profiles, and one torch thread for each pytest worker.

`HYPOTHESIS_PROFILE` names the profile: `dev` (the default), `ci` (the default where `CI` is set) or
`thorough`.
"""

import os

import torch
from hypothesis import settings

# A first call of torch takes longer than the deadline, so no profile has one. `ci` keeps all that
# Hypothesis' own profile of that name sets: no random choices, a blob to replay a failure.
settings.register_profile("dev", max_examples=15, deadline=None)
settings.register_profile("ci", settings.get_profile("ci"), max_examples=25)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if "CI" in os.environ else "dev"))

torch.set_num_threads(1)  # xdist spreads tests over the cores; threads would only compete
