"""`python -m fl_main` is the `fl` command."""

from fl_main.cli import main

if __name__ == "__main__":
    main()
