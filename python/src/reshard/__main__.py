"""The command: ``reshard`` and ``python -m reshard``."""

import os
import sys

from ._errors import ReshardError
from ._program import archive_later, command, environment


def main() -> None:
    try:
        program = command(sys.argv[1:])
    except ReshardError as error:
        print(f"reshard: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    archive_later()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program[0], program, environment())


if __name__ == "__main__":
    main()
