"""``python -m tl_taskneurons.cli``."""

from tl_taskneurons.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
