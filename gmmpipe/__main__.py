"""The entry of ``python -m gmmpipe``, and of ``torchrun gmmpipe`` in a checkout."""

import sys

if not __package__:  # run as a folder: Python put the package itself on the path, not its parent
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gmmpipe.cli import main

if __name__ == "__main__":
    main()
