"""The command ``undertone``, also as ``python -m undertone``."""


def main() -> None:
    """Run the command line."""
    from undertone.cli import app

    app(prog_name="undertone")


if __name__ == "__main__":
    main()
