"""`python -m gguflow`."""

import sys

from gguflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
