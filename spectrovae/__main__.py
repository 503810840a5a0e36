"""``python -m spectrovae``: the command ``spectrovae``."""

import sys

from spectrovae.cli import main

sys.exit(main())
