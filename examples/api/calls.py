#!/usr/bin/env python3
"""Asks, tells and settles over Tollgate's HTTP API, as an SDK or a scheduler would.

usage: calls.py [ADDRESS]     (default: localhost:8080, a `tollgate serve` with its built-in configuration)

Ends with status 1 if anything is not as expected.
"""

import json
import sys
import urllib.error
import urllib.request

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8080"
DESCRIPTORS = [{"tenant": "an-sdk"}]


def post(path, **body):
    """The answer, whatever its status."""
    request = urllib.request.Request(
        f"http://{ADDRESS}{path}",
        json.dumps({"domain": "llm", **body}).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def expect(what, found, expected):
    print(f"{what}: {found}")
    if found != expected:
        sys.exit(f"expected {expected}")


def charged_by(answer, limit="tenant-tokens"):
    """What a call took from the limit on tokens, or gave back to it."""
    return next(bucket["charged"] for bucket in answer["buckets"] if bucket["limit"] == limit)


def main():
    # May this call go on? It is taken to use 812 tokens and up to 500 more.
    reserved = post("/v1/reserve", descriptors=DESCRIPTORS, estimate={"input_tokens": 812, "output_tokens": 500})
    expect("admitted", reserved["admitted"], True)
    held = charged_by(reserved)
    expect("tokens held", held, 1312)

    # The answer streams, and is longer than was thought.
    told = post("/v1/progress", id=reserved["id"], usage={"input_tokens": 812, "output_tokens": 2000})
    held += charged_by(told)
    expect("tokens held while it streams", held, 2812)

    # What it used in the end, in the provider's own words. A second report changes nothing.
    usage = {"prompt_tokens": 812, "cached_tokens": 512, "completion_tokens": 2104}
    settled = post("/v1/settle", id=reserved["id"], usage=usage)
    expect("result", settled["result"], "settled")
    expect("tokens charged in the end", held + charged_by(settled), 2916)
    expect("again", post("/v1/settle", id=reserved["id"], usage=usage)["result"], "already_settled")

    # Calls that nobody asked about, several at once; one of them cannot be true.
    reports = [
        {"domain": "llm", "descriptors": DESCRIPTORS, "usage": {"total_tokens": 84}},
        {"domain": "llm", "descriptors": DESCRIPTORS, "usage": {"prompt_tokens": 5, "cached_tokens": 6}},
    ]
    request = urllib.request.Request(
        f"http://{ADDRESS}/v1/usage", json.dumps({"reports": reports}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        charged, refused = json.load(answer)["reports"]
    expect("a report without a reservation", charged["result"], "charged")
    expect("one that contradicts itself", refused["error"]["reason"], "bad_usage")
    print("all as expected")


if __name__ == "__main__":
    main()
