"""`python -m ivan` is the command line `ivan`."""

from ivan.cli import main

if __name__ == "__main__":
    main()
