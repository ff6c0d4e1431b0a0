"""One hypothesis profile for all tests: no deadline, and no dice where the environment says CI.

`pytest --hypothesis-profile=thorough` looks harder.
"""

import os

from hypothesis import settings

settings.register_profile("local", deadline=None, max_examples=50)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None, print_blob=True)
settings.register_profile("thorough", settings.get_profile("local"), max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "local")
