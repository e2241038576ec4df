"""A stand-in for `gcloud` whose machines are folders, and which takes them away at given moments.

Run as a program, it is the command. Its world is the folder in the variable CLOUD:

calls       one line per call
state       the state of the queued resource; absent without one
machines    the number of machines that were created
machine/    the disk of the machine, the working folder of what runs there
bucket/     gs://bucket, the only bucket
plan        when the first, second, ... machine is preempted, one line each: at the call of this
            number, or at the first call when a file in the bucket matches this pattern

Calls are counted from the creation of a machine on, those made on the machine included. There are
many, so this module imports little.
"""

import fcntl
import os
import sys

WORLD = os.environ.get('CLOUD', '.')
NEXT = {
    'WAITING_FOR_RESOURCES': 'PROVISIONING',
    'PROVISIONING': 'ACTIVE',
    'SUSPENDING': 'SUSPENDED',
}


def read(name: str) -> str:
    """Returns the content of a file of the world, or nothing."""
    try:
        with open(f'{WORLD}/{name}') as file:
            return file.read()
    except FileNotFoundError:
        return ''


def write(name: str, text: str) -> None:
    """Writes a file of the world in one go, because this process may be killed."""
    new = f'{WORLD}/{name}.{os.getpid()}'
    with open(new, 'w') as file:
        file.write(text)
    os.rename(new, f'{WORLD}/{name}')


class Alone:
    """Lets one call at a time look at the world and change it."""

    def __enter__(self):
        self._lock = open(f'{WORLD}/lock', 'a')
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self._lock.close()


def stop(message: str, code: int = 1):
    print(f'ERROR: {message}', file=sys.stderr)
    sys.exit(code)


def on_machine() -> list[int]:
    """Returns the other processes that run on the machine, recognised by their environment."""
    found = []
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f'/proc/{name}/environ', 'rb') as file:  # empty for zombies
                if f'ON_MACHINE={WORLD}'.encode() in file.read().split(b'\0'):
                    found.append(int(name))
        except OSError:
            pass
    return found


def take_away() -> None:
    """Ends everything on the machine, and deletes its disk."""
    import shutil

    while running := on_machine():
        for pid in running:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
    shutil.rmtree(f'{WORLD}/machine', ignore_errors=True)


def is_preempted_now() -> bool:
    """Counts this call, and returns whether the machine goes away during it."""
    with Alone():
        if not (count := read('count')):
            return False
        number = int(count) + 1
        write('count', str(number))
        plan, machine = read('plan').splitlines(), int(read('machines')) - 1
        moment = plan[machine] if machine < len(plan) else '0'
    if moment.isdigit():
        return number == int(moment)
    import pathlib

    return any(pathlib.Path(f'{WORLD}/bucket').glob(moment))


def preempt() -> None:
    with Alone():
        write('state', 'SUSPENDING')
    take_away()
    if 'ON_MACHINE' in os.environ:
        os.kill(os.getpid(), 9)


def create() -> None:
    with Alone():
        if read('state'):
            stop('ALREADY_EXISTS')
        write('machines', str(int(read('machines') or 0) + 1))
        write('count', '0')
        write('state', 'WAITING_FOR_RESOURCES')


def describe() -> None:
    with Alone():
        if not (state := read('state')):
            stop('NOT_FOUND')
        if NEXT.get(state) == 'ACTIVE':
            os.makedirs(f'{WORLD}/machine', exist_ok=True)
        write('state', NEXT.get(state, state))
    print(state)


def delete(arguments: list[str]) -> None:
    with Alone():
        if not (state := read('state')):
            stop('NOT_FOUND')
        if state == 'ACTIVE' and '--force' not in arguments:
            stop('FAILED_PRECONDITION: nodes are running')
        os.remove(f'{WORLD}/count')
        os.remove(f'{WORLD}/state')
    take_away()


def connect(verb: str, arguments: list[str]) -> int:
    """Copies files to or from the machine, or runs a command there."""
    import subprocess

    machine = f'{WORLD}/machine'
    if not os.path.isdir(machine):
        stop('cannot connect', 255)
    if verb == 'scp':
        paths = [each.replace('cnn-jax:', f'{machine}/') for each in arguments if each[0] != '-']
        return subprocess.run(['cp', '-r', *paths]).returncode
    command = next(each.partition('=')[2] for each in arguments if each.startswith('--command='))
    environment = os.environ | {'ON_MACHINE': WORLD}
    code = subprocess.run(['bash', '-c', command], cwd=machine, env=environment).returncode
    return code if code >= 0 else 255


def path_of(url: str) -> str:
    if not url.startswith('gs://'):
        return url
    if not url.startswith('gs://bucket/'):
        stop(f'{url}: no such bucket')
    return f'{WORLD}/{url[5:]}'


def files_in(folder: str) -> list[str]:
    return sorted(f'{path}/{name}' for path, _, names in os.walk(folder) for name in names)


def storage(verb: str, arguments: list[str], cut: bool) -> None:
    """Copies or deletes files; with `cut`, only half of them."""
    source, *rest = [path_of(each) for each in arguments if each == '-' or each[0] != '-']
    files = files_in(source) if verb == 'rsync' or '--recursive' in arguments else [source]
    if not files:
        stop(f'{source}: matched nothing')
    for file in files[: len(files) // 2 if cut else None]:
        if verb == 'rm':
            os.remove(file)
            continue
        with open(0 if file == '-' else file, 'rb') as stream:
            content = stream.read()
        target = rest[0] + (file.removeprefix(source) if verb == 'rsync' else '')
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, 'wb') as stream:
            stream.write(content)


def main(arguments: list[str]) -> int:
    with open(f'{WORLD}/calls', 'a') as calls:
        calls.write(' '.join(arguments) + '\n')
    if arguments[0] == 'config':
        return 0
    group, verb, *rest = arguments[2:] if arguments[0] == 'compute' else arguments
    if verb in ('create', 'delete'):
        create() if verb == 'create' else delete(rest)
        return 0
    goes = is_preempted_now()
    if group == 'storage':
        storage(verb, rest, cut=goes)
    if goes:
        preempt()
    if verb == 'describe':
        describe()
    return connect(verb, rest) if group == 'tpu-vm' else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
