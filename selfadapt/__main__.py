"""Lets `python -m selfadapt` be the `selfadapt` command."""

import sys

from selfadapt.cli import main

if __name__ == "__main__":
    sys.exit(main())
