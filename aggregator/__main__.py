"""`python -m fl_main.aggregator` is `fl aggregator`."""

from fl_main.console import run_command

from .cli import aggregator

if __name__ == "__main__":
    run_command(aggregator, prog_name="python -m fl_main.aggregator")
