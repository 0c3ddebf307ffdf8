"""`python -m xbench`, for launchers such as torchrun."""

from xbench.cli import main

if __name__ == "__main__":
    main()
