"""What people see of a service on AWS: every page of the dashboard in a real Chromium, records as they pass, what an open
page costs, and that the engine's role, made for pages, allows all of it.

The pages are those of two processes, as on AWS: an engine and a worker, each with a port of its own.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

from telling import must, say

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / ".ci"))

DAYS = ("2026-05-01", "2026-05-02")
TOKEN = "a token that only this proof knows"
PAGES = ["/", "/shards", "/pending", "/manifests", "/files", "/rejects", "/dead-letters", "/config"]


def address(program):
    """Where a process shows its pages."""
    return re.search(r"at (http://[\d.:]+)/", program.whole())[1]


def ask(origin, path, body=None, token=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(origin + path, data, headers), timeout=40) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def asked_of_aws(origin):
    """How many requests a process has made, by action."""
    with urllib.request.urlopen(origin + "/metrics", timeout=40) as answer:
        found = re.findall(r'^penstock_aws_requests_total\{action="([^"]+)",[^}]*\} (\d+)', answer.read().decode(), re.M)
    counts = {}
    for action, count in found:
        counts[action] = counts.get(action, 0) + int(count)
    return counts


def pages(proof):
    proof.variables |= {
        "PENSTOCK_LISTEN": "127.0.0.1:0",
        "PENSTOCK_ACTION_TOKEN": TOKEN,
        "PENSTOCK_MAX_AGE": "3s",
        "PENSTOCK_LOOK_EVERY": "1h",
        "PENSTOCK_SWEEP_EVERY": "1h",
    }
    engine = proof.start("engine", "engine-1", "--allow-actions", "--allow-tap")
    worker = proof.start("worker", "worker-1")
    taps(proof, engine, worker)
    land(proof)
    # On AWS nobody reaches the worker's pages: only the engine's role is made for them.
    by_work = set(proof.used["worker"])
    from check_dashboard import Look
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        try:
            see(proof, browser, Look, engine, worker)
            cost(browser, Look, worker)
        finally:
            browser.close()
    for program in proof.programs:
        program.stop()
    proof.used["worker"] &= by_work


def land(proof):
    """Two days of files: good ones, one that is all rejects, one that nobody can use; and a dead letter."""
    put = lambda day, name, text: proof.s3.put_object(
        Bucket=proof.bucket["input"], Key=f"landing/ndjson/{day}/{name}", Body=text.encode()
    )
    for day in DAYS:
        for number in range(12):
            lines = "".join(f'{{"id":"{day}-{number}-{at}"}}\n' for at in range(20))
            put(day, f"good-{number:02}.ndjson", lines + ("no json\n" if number == 0 else ""))
    put(DAYS[0], "bad.ndjson", "no json\n" * 4)
    put(DAYS[0], "wrong.csv", "id\n1\n")
    count = lambda state: len([item for item in proof.items()[0] if item["status"].startswith(state)])
    proof.wait("the files of two days", lambda: (count("completed"), count("failed"), count("quarantined")) == (26, 1, 1), 120)
    proof.wait("settled", proof.is_quiet, 60)
    letter = proof.notification("landing/ndjson/2026-05-03/told-again.ndjson", b'{"id":"told again"}\n')
    proof.sqs.send_message(QueueUrl=proof.outputs["DlqUrl"], MessageBody=json.dumps(letter))


def taps(proof, engine, worker):
    """Records as they pass, for whoever has the token, where the process allows it."""
    request = {"operator": "track", "limit": 1}
    must(ask(address(engine), "/tap", request)[0] == 401, "a tap without the token isn't refused")
    must(ask(address(engine), "/tap", request, "another token of good length")[0] == 401, "a wrong token isn't refused")
    told = ask(address(worker), "/tap", request, TOKEN)
    must(told[0] == 403 and "--allow-tap" in told[1]["error"], f"a process that doesn't allow taps says {told}")
    (proof.folder / "token").write_text(TOKEN + "\n")
    line = [proof.binary, "--log", "warn", "tap", proof.file, "admit", "--env", "ci", "--url", address(engine)]
    line += ["--token-file", proof.folder / "token", "--contains", "tapped", "--limit", "2", "--json"]
    environment = {name: value for name, value in (os.environ | proof.variables).items() if name != "PENSTOCK_ACTION_TOKEN"}
    tap = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # Somebody looks once the engine says so.
    shown = lambda: 'penstock_http_requests_total{route="/tap",status="200"}' in metrics(engine)
    proof.wait("the tap to be open", shown, 30)
    for day in DAYS:
        proof.s3.put_object(Bucket=proof.bucket["input"], Key=f"landing/ndjson/{day}/tapped.ndjson", Body=b'{"id":"first"}\n')
    told, _ = tap.communicate(timeout=60)
    must(tap.returncode == 0, f"tap ended with {tap.returncode}:\n{told}")
    records = [json.loads(line) for line in told.splitlines()]
    must(len(records) == 2 and all("tapped" in record["record"]["key"] for record in records), f"tap showed {told}")
    say("records of an operator are shown from afar, by the token alone, where the process allows it")


def metrics(program):
    with urllib.request.urlopen(address(program) + "/metrics", timeout=40) as answer:
        return answer.read().decode()


def see(proof, browser, Look, engine, worker):
    """Every page of both processes."""
    origin, wrong = address(engine), []
    manifests = ask(origin, "/api/manifests.json")[1]["manifests"]
    must({each["date"] for each in manifests} >= set(DAYS), f"manifests of both days: {manifests}")
    of_day = ask(origin, f"/api/manifests.json?date={DAYS[1]}&status=completed")[1]["manifests"]
    must(of_day and all(each["date"] == DAYS[1] for each in of_day), f"manifests of a day: {of_day}")
    with_failure = next(each for each in manifests if each["failed_files"])
    words = {
        "/": ["Files completed", "13 completed", "dlq"],
        "/shards": ["shardId-", "reading"],
        "/pending": ["No file is pending."],
        "/manifests": [manifests[0]["id"], DAYS[0], DAYS[1]],
        f"/manifests/{with_failure['date']}/{with_failure['id']}": ["bad.ndjson", "it counts", "logs/convert/", ".parquet"],
        "/files?key=good-0": ["good-00.ndjson", "completed"],
        f"/files/{DAYS[0]}/good-00.ndjson": ["it is there, as it was tracked", "What comes next", "no json"],
        f"/files/{DAYS[0]}/bad.ndjson": ["Why:", "the first is line 1"],
        f"/files/{DAYS[0]}/wrong.csv": ["quarantined", "Copy"],
        "/rejects": ["bad.ndjson", "wrong.csv", "rejected line"],
        "/dead-letters": ["1 message", "Send back dlq"],
        "/config": ["max_files", "default"],
    }
    away = {
        "/shards": ["no shard of it is read by this process"],
        "/pending": ["another process runs `fold`"],
        "/dead-letters": ["--allow-actions"],
    }
    for program in (engine, worker):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        look = Look(context, address(program))
        for path, said in words.items():
            look.go(path)
            for text in (away if program is worker else {}).get(path, said):
                try:
                    look.page.wait_for_selector(f"main >> text={text} >> nth=0", state="attached", timeout=20_000)
                except Exception:
                    must(False, f"{program.name}'s {path} doesn't say {text!r}:\n{look.page.inner_text('main')[:3000]}")
        wrong += look.wrong
        context.close()
    must(not wrong, "\n".join(wrong))
    say(f"{len(words)} pages of both processes show what is so, in Chromium; no console error, no request elsewhere")

    # A dead letter is shown first, and goes back only then.
    context = browser.new_context()
    look = Look(context, origin)
    look.go("/dead-letters")
    look.page.click("text=Send back dlq…")
    look.page.fill("#token", TOKEN)
    look.page.click("text=Show what it would do")
    look.page.wait_for_selector("text=1 would be redriven, 0 left as they are", timeout=40_000)
    look.page.click("dialog button.main")
    look.page.wait_for_selector("text=1 redriven, 0 left as they are", timeout=40_000)
    must(not look.wrong, "\n".join(look.wrong))
    context.close()
    proof.wait("what the dead letter told of", lambda: any(item["date_prefix"] == "2026-05-03" for item in proof.items()[0]), 60)
    # A failed file goes back from its page: it fails again, for it is as it was.
    selection = {"files": [{"date": DAYS[0], "file_key": "bad.ndjson"}]}
    status, steps = ask(origin, "/api/redrive", {"selection": selection, "act": True}, TOKEN)
    must(status == 200 and steps[0]["outcome"] == "redriven", f"redriving a file: {status} {steps}")
    again = lambda: ask(origin, f"/api/file.json?date={DAYS[0]}&key=bad.ndjson")[1]["files"][0]["item"]["status"].startswith("failed")
    proof.wait("the redriven file to fail again", lambda: count_failed_manifests(origin) > 1 and again(), 90)
    say("a dead letter and a failed file were sent back from the pages")


def count_failed_manifests(origin):
    return sum(1 for each in ask(origin, f"/api/manifests.json?date={DAYS[0]}")[1]["manifests"] if each["failed_files"])


def cost(browser, Look, worker):
    """Pages that stay open ask AWS no more often than the docs say, however many look."""
    origin, context = address(worker), browser.new_context()
    day = DAYS[0]
    id = ask(origin, f"/api/manifests.json?date={day}")[1]["manifests"][0]["id"]
    paths = ["/", "/", "/shards", "/manifests", f"/manifests/{day}/{id}", "/files", f"/files/{day}/good-00.ndjson", "/rejects"]
    looks = [Look(context, origin) for _ in paths]
    for look, path in zip(looks, paths):
        look.go(path)
    before, seconds = asked_of_aws(origin), 20
    time.sleep(seconds)
    spent = {action: count - before.get(action, 0) for action, count in asked_of_aws(origin).items()}
    context.close()
    reads = sum(count for action, count in spent.items() if action.startswith(("dynamodb:Query", "dynamodb:GetItem")))
    objects = sum(count for action, count in spent.items() if action.startswith("s3:"))
    # Once in 30 s the counts, by 56 queries at least; each other view once in 10 s.
    must(reads <= 2 * 56 + 3 * 60, f"{len(paths)} open pages read the table {reads} times in {seconds} s: {spent}")
    must(objects <= 3 * 20, f"{len(paths)} open pages asked S3 {objects} times in {seconds} s: {spent}")
    say(f"{len(paths)} open pages cost {reads} reads of tables and {objects} requests to S3 in {seconds} s")
