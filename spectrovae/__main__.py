"""``python -m spectrovae``: the command line."""

import sys

from spectrovae.cli import main

sys.exit(main())
