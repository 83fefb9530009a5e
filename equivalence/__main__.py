"""`python -m equivalence` is the command `equivalence`."""

import sys

from equivalence.cli import main

sys.exit(main())
