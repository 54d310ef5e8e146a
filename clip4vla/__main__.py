"""`python -m clip4vla`: the same as the command `clip4vla`."""

from clip4vla.cli.main import main

if __name__ == "__main__":
    main()
