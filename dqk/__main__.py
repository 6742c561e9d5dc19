"""`python -m dqk` is the same program as `dqk`."""

from dqk.cli import main

if __name__ == "__main__":
    main()
