"Profiles of the generated tests: `make test` asks the same in every run (Hypothesis's own `ci`); `make fuzz` looks for what nobody has met yet."
from hypothesis import settings

settings.register_profile("fuzz", max_examples=2000, deadline=None, print_blob=True)
