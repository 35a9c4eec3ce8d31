"""A headless Chromium, spoken to over its own debugging pipe: no driver and no package beside it."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager


@contextmanager
def chromium():
    """Start a browser that keeps nothing."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            yield browser
        finally:
            browser.close()


class Browser:
    def __init__(self, program, folder):
        to_read, self._commands = os.pipe()
        self._answers, to_write = os.pipe()
        # Chromium takes commands on descriptor 3 and answers on 4.
        flags = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run"]
        flags += [f"--user-data-dir={folder}", "--disable-dev-shm-usage", "--hide-scrollbars", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec 3<&{to_read} 4>&{to_write}; exec "$@"', "bash", program, *flags],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._rest = b""

    def call(self, method, session=None, **parameters):
        """Ask and return (result, events that came before the answer)."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        events = []
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"], events
            events.append(answer)

    def _next(self):
        while b"\0" not in self._rest:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url, **how):
        return Tab(self, url, **how)

    def close(self):
        try:
            self.call("Browser.close")
        except (OSError, AssertionError):
            self._process.kill()
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)


class Tab:
    """One page: what it says, what its console says, how it looks."""

    def __init__(self, browser, url, *, width=1440, height=900, dark=False, scripts=True):
        self._browser = browser
        self.complaints = []
        target, _ = browser.call("Target.createTarget", url="about:blank")
        attached, _ = browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width, height=900):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def call(self, method, **parameters):
        result, events = self._browser.call(method, self._session, **parameters)
        for event in events:
            told = event.get("params", {})
            if event.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(told["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled":
                self.complaints.append(str(told["args"]))
            elif event.get("method") == "Page.javascriptDialogOpening":
                self.complaints.append(f"dialog: {told}")
        return result

    def run(self, expression):
        """Return the JSON value of an expression in the page (this works with the page's own scripts off)."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def text(self):
        return self.run("document.body.innerText")

    def wait_for(self, expression, seconds=15.0):
        end = time.monotonic() + seconds
        while not (result := self.run(expression)):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}\n{self.text()}"
            time.sleep(0.1)
        return result

    def picture(self, path, *, whole=True):
        """Save what it looks like, to be looked at."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))
