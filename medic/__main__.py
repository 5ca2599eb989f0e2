"""``python -m medic`` is ``medic``."""

from medic.cli import main

if __name__ == "__main__":
    main()
