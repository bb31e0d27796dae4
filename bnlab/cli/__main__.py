"""`python -m bnlab.cli`."""

from bnlab.cli import main

if __name__ == "__main__":
    main()
