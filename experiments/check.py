"""The command ``graft check``: the contracts of a part of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from graft.command import FAILED, command, command_parser
from graft.errors import GraftError

EXAMPLES = """examples:
  graft check my_parts:Decay                            a method, an encoder, a view, a wrapper or an algorithm
  graft check my_parts:Memory --options '{size: 64}'    with options that have no defaults, or others than these
  graft check my_parts:Crop --env Acrobot-v1            a wrapper, around this environment

The module lies in the working directory or in a package that is installed. What it is follows from its base class.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "check", "Runs the contracts that Graft's own parts keep on one of yours, which a config names alike.", EXAMPLES
    )
    parser.add_argument("part", metavar="MODULE:NAME", help="a class, or the object of a view")
    parser.add_argument("--options", metavar="YAML", default="{}", help="its options, as in a config")
    parser.add_argument(
        "--env", metavar="ID", default="CartPole-v1", help="what a wrapper wraps (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    from graft.experiments.config.experiment import read_value
    from graft.experiments.contracts.part import check

    given = read_value(options.options, "--options")
    if not isinstance(given, dict):
        raise GraftError(f"--options {options.options} is not allowed; give name: value pairs, such as '{{size: 64}}'.")
    failed = check(options.part, given, options.env, print)
    return FAILED if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
