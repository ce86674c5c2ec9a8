"""`python -m argus`: the same as the command `argus`."""

from argus.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
