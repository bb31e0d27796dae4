"""The command `bnlab`, which answers to signals before the rest of it is loaded."""

import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own prints a traceback
    from bnlab.training.signals import exit_on_signal

    exit_on_signal()
    from bnlab.cli import main as run

    run()


if __name__ == "__main__":
    main()
