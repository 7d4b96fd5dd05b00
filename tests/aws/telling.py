"""How a proof tells what it does, and that it failed."""


def say(text):
    print(f"-- {text}", flush=True)


def must(truth, text):
    if not truth:
        raise SystemExit(f"FAILED: {text}")
