"""`python -m backsplit` is the command line."""

import sys

from backsplit.cli import main

if __name__ == "__main__":
    sys.exit(main())
