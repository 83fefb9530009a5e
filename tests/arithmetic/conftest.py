"""Makes `support` importable from the tests of the field."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "field"))
