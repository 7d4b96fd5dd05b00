#!/usr/bin/env python3
"""Looks at the dashboard as a person does: numbers that move, reasons, actions with and without the token, both themes and
widths. Fails on a console error, a request that leaves the origin, or a serious finding of axe-core."""

import json
import os
import pathlib
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "pipelines/ndjson-parquet.yaml"
TOKEN = "a token that only this check knows"
DATE = "2026-02-01"
# The tables that are wider than the place they have.
HIDDEN = "[...document.querySelectorAll('.wide')].filter((of) => of.scrollWidth > of.clientWidth).map((of) => of.ariaLabel)"
PAGES = ["/", "/shards", "/pending", "/manifests", "/files", "/rejects", "/dead-letters", "/config"]


class Service:
    def __init__(self, program, place):
        self.program, self.place, self.log = program, place, place / "log"
        self.cloud = place / "cloud"
        self.starts = 0

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        return kept | {
            "PENSTOCK_MAX_AGE": "2s",
            "PENSTOCK_MAX_FILES": "20",
            "PENSTOCK_MAX_ATTEMPTS": "1",
            "PENSTOCK_ACTION_TOKEN": TOKEN,
        }

    def start(self, *more):
        self.starts += 1
        log = self.log.with_suffix(f".{self.starts}")
        command = [self.program, "run", PIPELINE, "--local", self.cloud, "--listen", "127.0.0.1:0", *more]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=self.environment(), stdout=out, stderr=subprocess.STDOUT)
        found = wait("the address", lambda: re.search(r"at (http://[\d.:]+)/", log.read_text()))
        self.origin = found[1]

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def bucket(self, name):
        return self.cloud / "s3" / f"ndjson-parquet-{name}-dev-000000000000"

    def land(self, name, text):
        path = self.bucket("input") / "landing/ndjson" / DATE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f".{name}.part")
        whole.write_text(text)
        whole.rename(path)

    def status(self):
        command = [self.program, "status", PIPELINE, "--local", self.cloud, "--json"]
        told = subprocess.run(command, env=self.environment(), check=True, stdout=subprocess.PIPE)
        return json.loads(told.stdout)["facts"]

    def ask(self, path, body=None, token=None):
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.origin + path, data, headers), timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def wait(what, found, limit=60):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    sys.exit(f"{what} didn't come within {limit} s")


def lines(name, count):
    row = '{{"id":"{}-{}","city":"Zürich","price":2.50,"ok":true}}\n'
    return "".join(row.format(name, number) for number in range(count))


def finished(service, files):
    """What `status` says once so many files have landed and all are final."""

    def look():
        facts = service.status()
        of = facts["dates"].get(DATE, {"files": {}, "manifests": {}})
        under_way = [of["files"].get(state, 0) for state in ("pending", "manifested")]
        under_way += [of["manifests"].get(state, 0) for state in ("assembling", "pending", "processing")]
        return facts if sum(under_way) + facts["unsettled_manifests"] == 0 and sum(of["files"].values()) == files else None

    return wait("the end of the work", look)


def put_dead_letter(service):
    """A message that file-events gave up: as the local cloud keeps it."""
    key = f"landing/ndjson/{DATE}/told-again.ndjson"
    event = {
        "eventName": "ObjectCreated:Put",
        "s3": {
            "bucket": {"name": "ndjson-parquet-input-dev-000000000000"},
            "object": {"key": key, "size": 1, "eTag": "0", "sequencer": "0"},
        },
    }
    with sqlite3.connect(service.cloud / "penstock.db", timeout=30) as db:
        ids = {name: id for id, name in db.execute("SELECT id, name FROM queues")}
        queue, source = (next(id for name, id in ids.items() if f"-{short}-" in name) for short in ("dlq", "file-events"))
        values = {
            "queue_id": queue,
            "source_id": source,
            "message_id": "a-dead-letter",
            "body": json.dumps({"Records": [event]}),
            "sent_ms": int(time.time() * 1000),
            "visible_ms": 0,
            "receives": 3,
        }
        columns = [row[1] for row in db.execute("PRAGMA table_info(messages)")]
        missing = set(values) - set(columns)
        assert not missing, f"messages has no {missing}; it has {columns}"
        for row in db.execute("PRAGMA table_info(messages)"):
            if row[1] not in values and row[3] and row[4] is None and not row[5]:
                values[row[1]] = 0
        names = ", ".join(values)
        db.execute(f"INSERT INTO messages ({names}) VALUES ({', '.join('?' * len(values))})", list(values.values()))


class Look:
    """A page, with all that may go wrong on it."""

    def __init__(self, context, origin):
        self.page, self.origin, self.wrong = context.new_page(), origin, []
        self.expected = 0
        self.page.on("console", lambda said: self.on_console(said))
        self.page.on("pageerror", lambda error: self.wrong.append(f"script error: {error}"))
        self.page.on("request", self.on_request)

    def on_console(self, said):
        if said.type not in ("error", "warning"):
            return
        # The browser itself says so when an action is refused, as it is on purpose.
        if "status of 401" in said.text and self.expected:
            self.expected -= 1
            return
        self.wrong.append(f"console {said.type}: {said.text} ({said.location})")

    def on_request(self, request):
        if not request.url.startswith(self.origin + "/"):
            self.wrong.append(f"request to {request.url}")

    def go(self, path):
        self.page.goto(self.origin + path)
        self.page.wait_for_selector("main .card")
        self.page.wait_for_load_state("networkidle", timeout=20_000) if path == "" else None

    def number(self, id):
        return int(re.sub(r"\D", "", self.page.inner_text(f"#{id}")))


def main(program, chromium, axe, shots):
    shots = pathlib.Path(shots)
    for old in shots.glob("*.png"):
        old.unlink()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        service = Service(program, pathlib.Path(place))
        service.start()
        service.stop()
        put_dead_letter(service)
        service.start("--allow-actions")
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            see(browser, service, pathlib.Path(axe).read_text(), shots)
        except BaseException:
            print(service.log.with_suffix(f".{service.starts}").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            browser.close()
            service.stop()
    print(f"{len(list(shots.glob('*.png')))} screenshots in {shots}")


def redrive_in_dialog(look, shot):
    """Sees what would become of one thing, then does it. Nothing is done before it was shown."""
    if not look.page.is_enabled("dialog button.main"):
        look.page.click("text=Show what it would do")
    look.page.wait_for_selector("text=1 would be redriven, 0 left as they are")
    look.page.screenshot(path=shot)
    look.page.click("dialog button.main")
    look.page.wait_for_selector("text=1 redriven, 0 left as they are")
    look.page.click("dialog >> text=Close")
    look.page.wait_for_selector("dialog", state="detached")


def see(browser, service, axe, shots):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    look = Look(context, service.origin)

    # Numbers move while files land, and agree with `status` in the end.
    look.go("/")
    seen = look.number("files-completed")
    for wave in range(6):
        for number in range(20):
            name = f"wave-{wave}-{number:02}"
            service.land(f"{name}.ndjson", lines(name, 200) + ("no json\n" if number % 5 == 0 else ""))
        moved = lambda: look.number("files-completed") > seen or look.page.wait_for_timeout(200)
        wait("a number of completed files that grows", moved)
        seen = look.number("files-completed")
        if wave == 3:
            look.page.screenshot(path=shots / "overview-at-work.png", full_page=True)
    service.land("too-bad.ndjson", "no json\n" * 20)
    service.land("table.csv", "a,b\n1,2\n")
    facts = finished(service, 122)
    of = facts["dates"][DATE]
    wanted = {
        "files-completed": of["files"]["completed"],
        "files-failed": of["files"]["failed"],
        "rows": of["rows"],
        "manifests-completed": of["manifests"]["completed"],
    }
    wait("the numbers of `status`", lambda: {id: look.number(id) for id in wanted} == wanted or look.page.wait_for_timeout(300), 20)
    print("numbers moved, and agree with status:", wanted)

    # A failing manifest shows its reason.
    output = service.bucket("output")
    away = output.with_name("away")
    output.rename(away)
    output.write_text("not a folder")
    service.land("unlucky.ndjson", lines("unlucky", 3))
    wait("a failed manifest", lambda: service.status()["failed_manifests"])
    output.unlink()
    away.rename(output)
    reason = service.status()["failed_manifests"][0]["reason"]
    look.go("/manifests?status=failed")
    look.page.click("main table a")
    look.page.wait_for_selector("#reason")
    assert reason[:40] in look.page.inner_text("#reason"), (reason, look.page.inner_text("#reason"))
    failed = look.page.url.removeprefix(service.origin)
    print("a failed manifest shows why:", reason[:100])

    # Nobody acts without the token; with it dead letters go back, once it was seen what would.
    dlq = {"selection": {"letters": {"queue": "dlq"}}, "act": True}
    assert service.ask("/api/redrive", dlq)[0] == 401
    assert service.ask("/api/redrive", dlq, "a wrong token of good length")[0] == 401
    look.go("/dead-letters")
    look.page.wait_for_selector("text=told-again", state="attached")
    look.page.click("text=Send back dlq…")
    look.page.fill("#token", "a wrong token of good length")
    look.expected = 1
    look.page.click("text=Show what it would do")
    look.page.wait_for_selector("text=Not done: the token is wrong")
    look.page.screenshot(path=shots / "dead-letters-refused.png")
    look.page.fill("#token", TOKEN)
    redrive_in_dialog(look, shots / "dead-letters-shown.png")
    gone = lambda: not service.ask("/api/dead-letters.json")[1]["queues"][0]["shown"]
    wait("the queue of dead letters to be empty", gone)
    print("redrive is refused without the token, and works with it")

    # A failed file tells why on a page of its own, and is redriven from there: it fails again, in another manifest.
    look.go("/rejects")
    look.page.click("text=too-bad.ndjson >> nth=0")
    look.page.wait_for_selector("text=the first is line 1")
    before = len(service.ask("/api/manifests.json?status=completed")[1]["manifests"])
    look.page.click("main >> text=Redrive…")
    redrive_in_dialog(look, shots / "file-redriven.png")
    manifests = lambda: service.ask("/api/manifests.json?status=completed")[1]["manifests"]
    wait("the manifest of the redriven file", lambda: len(manifests()) > before)
    look.go("/rejects")
    look.page.click(f"text=Redrive all of {DATE}… >> nth=0")
    look.page.wait_for_selector("dialog >> text=would be redriven")
    look.page.keyboard.press("Escape")
    look.page.wait_for_selector("dialog", state="detached")
    print("a failed file is redriven from its page")

    # The keyboard reaches everything: skip link, then the pages.
    look.go("/")
    look.page.keyboard.press("Tab")
    assert look.page.evaluate("document.activeElement.className") == "skip"
    for _ in range(4):
        look.page.keyboard.press("Tab")
    assert look.page.evaluate("document.activeElement.closest('nav') !== null"), "the fifth stop isn't a page"

    # Both widths, both themes, every page.
    batch = service.ask("/api/manifests.json?status=completed")[1]["manifests"][0]
    pages = {path.strip("/") or "overview": path for path in PAGES}
    pages |= {"manifest": f"/manifests/{batch['date']}/{batch['id']}", "manifest-failed": failed, "files-found": "/files?key=wave-1"}
    pages |= {"file": f"/files/{DATE}/wave-1-00.ndjson", "file-failed": f"/files/{DATE}/too-bad.ndjson"}
    findings, wrong = [], list(look.wrong)
    for width, height in ((1280, 900), (390, 844)):
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            each = Look(context, service.origin)
            for name, path in pages.items():
                each.go(path)
                if name == "rejects":
                    each.page.click("main details summary >> nth=0")
                    each.page.wait_for_selector("text=Rejected lines")
                each.page.wait_for_timeout(700 if name == "overview" else 150)
                wide = each.page.evaluate("document.documentElement.scrollWidth") - width
                if wide > 0:
                    findings.append(f"{name} at {width}: {wide} px wider than the window")
                hidden = each.page.evaluate(HIDDEN)
                if hidden:
                    findings.append(f"{name} at {width}: tables hide their last columns: {hidden}")
                each.page.evaluate("window.scrollTo(0, 0)")
                each.page.screenshot(path=shots / f"{name}-{width}-{theme}.png", full_page=name != "config")
                each.page.evaluate(axe)
                found = each.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                for violation in found["violations"]:
                    if violation["impact"] in ("serious", "critical"):
                        targets = [node["target"] for node in violation["nodes"]][:3]
                        findings.append(f"{name} at {width}, {theme}: {violation['id']}: {violation['help']} {targets}")
            wrong += each.wrong
            context.close()
    if findings or wrong:
        sys.exit("\n".join(findings + wrong))
    print(f"axe-core finds nothing serious on {len(pages)} pages at two widths in two themes; no console error; no request left {service.origin}")


if __name__ == "__main__":
    main(*sys.argv[1:])
