"""``python -m fedlama``."""

from fedlama.cli.app import main

if __name__ == "__main__":
    main()
