"""`python -m scclip_rt`, and what the `scclip` script starts."""

import sys


def main() -> None:
    """Run the command; a package that can't even be imported is told in one line, like every other error."""
    try:
        from scclip_rt.cli import main as command
    except ImportError as error:
        name = f"{error.name}: " if error.name else ""
        print(
            f"scclip: error: a package that this needs can't be loaded: {name}{' '.join(str(error).split())}; install "
            "it again [ImportError]",
            file=sys.stderr,
        )
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
