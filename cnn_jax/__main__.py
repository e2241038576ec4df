"""Runs an experiment script by name, with or without a checkout of the repository.

    cnn-jax                              # lists the scripts
    cnn-jax train --dataset=digits       # python experiments/train.py --dataset=digits
    python -m cnn_jax train --helpshort  # the same command, if cnn-jax is not on PATH

The commands `run` and `doctor` run `python -m cnn_jax.run` and `python -m cnn_jax.doctor`.

If the file named by --flagfile does not exist, it is looked up among the recipes that come with the
package, so --flagfile=experiments/recipes/mnist1d_cnn.flags works in any folder.
"""

import ast
import difflib
import pathlib
import runpy
import sys

from cnn_jax.output import ends_with_its_reader

PACKAGE = pathlib.Path(__file__).parent
MODULES = ('doctor', 'run')
USAGE = 2  # exit code for an invalid command line, as in the scripts


def scripts_folder() -> pathlib.Path:
    """Returns the folder of the scripts: in the wheel, or next to the package in a checkout."""
    inside = PACKAGE / 'experiments'
    return inside if inside.is_dir() else PACKAGE.parent / 'experiments'


def commands() -> dict[str, pathlib.Path]:
    """Returns a mapping from the name of each command to its file."""
    scripts = {path.stem: path for path in sorted(scripts_folder().glob('*.py'))}
    return scripts | {name: PACKAGE / f'{name}.py' for name in MODULES}


def main(argv: list[str] | None = None) -> None:
    """Runs the command that `argv` names; None means the arguments of the process."""
    argv = sys.argv[1:] if argv is None else argv
    known = commands()
    if not argv or argv[0] in ('-h', '--help'):
        with ends_with_its_reader():
            print(usage(known))
        sys.exit(0 if argv else USAGE)
    name, *arguments = argv
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        print(f'error: unknown command {name!r}{hint} (cnn-jax --help lists them)', file=sys.stderr)
        sys.exit(USAGE)
    path = known[name]
    sys.argv = [str(path), *map(recipe, arguments)]
    sys.path[0] = str(path.parent)
    if name in MODULES:
        runpy.run_module(f'cnn_jax.{name}', run_name='__main__', alter_sys=True)
    else:
        runpy.run_path(str(path), run_name='__main__')


def usage(known: dict[str, pathlib.Path]) -> str:
    """Returns the help text, with the summary of every script."""
    width = max(map(len, known))
    lines = [f'  {name:{width}}  {summary(path)}' for name, path in known.items()]
    return '\n'.join(['usage: cnn-jax COMMAND [flags]; cnn-jax COMMAND --help', '', *lines])


def summary(path: pathlib.Path) -> str:
    """Returns the first line of a script's docstring, without the command in it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return docstring.partition('\n')[0].partition(': python ')[0].rstrip('.')


def recipe(argument: str) -> str:
    """Returns the argument, with a --flagfile that does not exist replaced by a packaged recipe."""
    flag, _, value = argument.partition('=')
    packaged = scripts_folder() / 'recipes' / f'{pathlib.Path(value).stem}.flags'
    if flag.lstrip('-') == 'flagfile' and not pathlib.Path(value).exists() and packaged.is_file():
        return f'{flag}={packaged}'
    return argument


if __name__ == '__main__':
    main()
