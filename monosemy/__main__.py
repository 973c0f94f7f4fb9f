"""Runs the command line as `python -m monosemy COMMAND …`."""

from monosemy.cli import main

if __name__ == "__main__":
    main()
