"""Opens pages in headless Chromium, as a person would: python -m tools.browser PAGE PICTURE.png

Speaks the Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/) through a
pair of pipes, which needs no package beyond Chromium itself.
"""

import argparse
import base64
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
KEYS = {  # key -> (code, virtual key, text)
    'Tab': ('Tab', 9, ''),
    'Enter': ('Enter', 13, '\r'),
    ' ': ('Space', 32, ' '),
    'End': ('End', 35, ''),
    'Home': ('Home', 36, ''),
    'ArrowLeft': ('ArrowLeft', 37, ''),
    'ArrowUp': ('ArrowUp', 38, ''),
    'ArrowRight': ('ArrowRight', 39, ''),
    'ArrowDown': ('ArrowDown', 40, ''),
}


def find() -> str | None:
    """Returns the path of Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page in a browser.

    Attributes:
        problems: what the page reported as an error, or did not find.
        requests: addresses that the page fetched.
    """

    def __init__(self, commands, events):
        self._commands, self._events = commands, events
        self._last, self._session = 0, None
        self.problems: list[str] = []
        self.requests: list[str] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a command of the protocol."""
        self._last += 1
        message = {'id': self._last, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        self._commands.write(json.dumps(message).encode() + b'\0')
        while (answer := self._read()).get('id') != self._last:
            self._note(answer)
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._events.read(1)) != b'\0':
            if not byte:
                raise RuntimeError('the browser has ended')
            message += byte
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, found = event.get('method'), event.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.problems.append(json.dumps(found['exceptionDetails']))
        elif method == 'Runtime.consoleAPICalled' and found['type'] in ('error', 'warning'):
            self.problems.append(json.dumps(found['args']))
        elif method == 'Log.entryAdded' and found['entry']['level'] in ('error', 'warning'):
            self.problems.append(found['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(found['request']['url'])

    def attach(self) -> None:
        """Makes a tab, to which all later commands go."""
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        found = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = found['sessionId']
        for domain in ('Runtime', 'Log', 'Network', 'Page'):
            self.send(f'{domain}.enable')

    def open(self, path: str | os.PathLike, *, width: int, height: int, dark: bool) -> None:
        """Opens a file and waits until it is loaded."""
        self.send('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        self.send('Emulation.setEmulatedMedia', features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        ])  # fmt: skip
        self.send('Page.navigate', url=pathlib.Path(path).resolve().as_uri())
        self.evaluate(
            'new Promise((done) => document.readyState === "complete" ? done() : '
            'addEventListener("load", done))'
        )

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is awaited."""
        found = self.send('Runtime.evaluate', expression=expression, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        if 'exceptionDetails' in found:
            raise RuntimeError(found['exceptionDetails']['exception'].get('description'))
        return found['result'].get('value')

    def text(self, selector: str) -> str:
        """Returns the text of the first element that a CSS selector finds."""
        return self.evaluate(f'document.querySelector({json.dumps(selector)}).textContent')

    def press(self, key: str) -> None:
        """Presses and releases a key, named as in `KeyboardEvent.key`."""
        code, number, text = KEYS[key]
        common = {'key': key, 'code': code, 'windowsVirtualKeyCode': number}
        typed = {'text': text} if text else {}
        self.send('Input.dispatchKeyEvent', type='keyDown', **common, **typed)
        self.send('Input.dispatchKeyEvent', type='keyUp', **common)

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Clicks into an element, at a share of its width and height."""
        name = json.dumps(selector)
        x, y, width, height = self.evaluate(
            f'(() => {{ const found = document.querySelector({name}); '
            'found.scrollIntoView({block: "center"}); const b = found.getBoundingClientRect(); '
            'return [b.x, b.y, b.width, b.height]; })()'
        )
        at = {'x': x + across * width, 'y': y + down * height, 'button': 'left', 'clickCount': 1}
        self.send('Input.dispatchMouseEvent', type='mousePressed', **at)
        self.send('Input.dispatchMouseEvent', type='mouseReleased', **at)

    def picture(self, path: str | os.PathLike) -> None:
        """Writes what the window shows as a PNG."""
        found = self.send('Page.captureScreenshot', format='png')
        pathlib.Path(path).write_bytes(base64.b64decode(found['data']))


@contextlib.contextmanager
def browser(program: str) -> Iterator[Page]:
    """Runs a browser with one empty page, and ends it."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix='chromium-', ignore_cleanup_errors=True)
        )
        theirs_in, ours_out = map(_high, os.pipe())
        ours_in, theirs_out = map(_high, os.pipe())
        # --remote-debugging-pipe reads file descriptor 3 and writes 4; a shell puts them there.
        process = subprocess.Popen(
            ['bash', '-c', f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', 'bash', program,
             '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-background-networking', '--disable-dev-shm-usage',
             f'--user-data-dir={folder}', '--remote-debugging-pipe'],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        os.close(theirs_in)
        os.close(theirs_out)
        commands = stack.enter_context(os.fdopen(ours_out, 'wb', buffering=0))
        page = Page(commands, stack.enter_context(os.fdopen(ours_in, 'rb')))
        page.attach()
        yield page


def _high(descriptor: int) -> int:
    """Moves a file descriptor out of the way of 3 and 4."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('page')
    parser.add_argument('picture')
    parser.add_argument('--width', type=int, default=1200)
    parser.add_argument('--height', type=int, default=900)
    parser.add_argument('--dark', action='store_true')
    parser.add_argument('--script', default='', help='JavaScript that runs before the picture')
    given = parser.parse_args()
    program = find()
    if program is None:
        parser.exit(2, f'error: no browser found: none of {", ".join(NAMES)} is on PATH\n')
    with browser(program) as page:
        page.open(given.page, width=given.width, height=given.height, dark=given.dark)
        page.evaluate(given.script)
        page.picture(given.picture)
        for problem in page.problems:
            print(problem)


if __name__ == '__main__':
    main()
