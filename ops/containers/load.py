"""A small load on a running server: load.py URL [--strict]

Three senders write into one conversation, and a stream follows it. A request that fails is repeated with the same message id, as clients
do. SIGTERM ends the load; then every acknowledged message must be in the log once and must have arrived at the stream, and `seq` has no
gap. With --strict no request may have failed. Prints one line; exit code 1 if something is lost. JWT_SECRET and SERVICE_DID are those
of the server.
"""

import base64, hashlib, hmac, http.client, json, os, secrets, signal, sys, threading, time
from urllib.parse import urlencode, urlsplit

ADDRESS = urlsplit(sys.argv[1]).netloc
NAMESPACE = "blue.catbird.mls."
# Seconds: for one reply, for a request with its repetitions, between two messages of a sender, and until the stream has caught up.
REPLY, PATIENCE, PAUSE, CATCH_UP = 10, 120, 0.1, 30

stop = threading.Event()
lock = threading.Lock()
acknowledged, streamed, failures = {}, {}, []


def token(did, method):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    now = int(time.time())
    claims = {"iss": did, "aud": os.environ["SERVICE_DID"], "lxm": NAMESPACE + method, "iat": now, "exp": now + 60, "jti": secrets.token_hex(16)}
    signed = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
    return (signed + b"." + part(hmac.digest(os.environ["JWT_SECRET"].encode(), signed, hashlib.sha256))).decode()


def ask(did, method, body=None, **query):
    """Sends one request; returns the connection and the reply."""
    connection = http.client.HTTPConnection(ADDRESS, timeout=REPLY)
    headers = {"Authorization": "Bearer " + token(did, method), "Content-Type": "application/json"}
    target = f"/xrpc/{NAMESPACE}{method}" + ("?" + urlencode(query) if query else "")
    connection.request("POST" if body else "GET", target, json.dumps(body) if body else None, headers)
    return connection, connection.getresponse()


def call(did, method, body=None, **query):
    """The reply of a request that is repeated until it succeeds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection, reply = ask(did, method, body, **query)
            text = reply.read()
            connection.close()
            if reply.status == 200:
                return json.loads(text)
            why = f"{reply.status} {text[:200]!r}"
        except (OSError, http.client.HTTPException) as cause:
            why = repr(cause)
        with lock:
            failures.append(f"{method}: {why}")
        if time.monotonic() > deadline:
            sys.exit(f"{method} fails: {why}")
        time.sleep(0.2)


def send(did, convo):
    while not stop.is_set():
        message = secrets.token_hex(16)
        body = {"convoId": convo, "ciphertext": {"$bytes": base64.b64encode(message.encode()).decode()}, "epoch": 0, "msgId": message}
        seq = call(did, "sendMessage", body)["seq"]
        with lock:
            acknowledged[message] = seq
        stop.wait(PAUSE)


def follow(did, convo, following):
    """Reads the stream, and resumes it from its last cursor whenever it ends."""
    cursor = {}
    while True:
        try:
            connection, reply = ask(did, "streamConvoEvents", convoId=convo, **cursor)
            for line in iter(reply.readline, b"") if reply.status == 200 else ():
                following.set()
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "id":
                    cursor = {"cursor": value}
                elif field == "data" and isinstance(entry := json.loads(value).get("message"), dict):
                    with lock:
                        streamed[entry["id"]] = entry["seq"]
            connection.close()
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.2)


def log(did, convo):
    """All entries of the conversation."""
    entries, since = [], 0
    while page := call(did, "getMessages", convoId=convo, sinceSeq=since, limit=100)["messages"]:
        entries += page
        since = page[-1]["seq"]
    return entries


def main():
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    alice, bob = (f"did:plc:{base64.b32encode(secrets.token_bytes(15)).decode().lower()}" for _ in range(2))
    created = {"groupId": secrets.token_hex(16), "initialMembers": [bob], "cipherSuite": "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519"}
    convo = call(alice, "createConvo", created)["id"]
    following = threading.Event()
    threading.Thread(target=follow, args=(bob, convo, following), daemon=True).start()
    if not following.wait(REPLY):
        sys.exit("the stream does not begin")
    senders = [threading.Thread(target=send, args=(alice, convo), daemon=True) for _ in range(3)]
    start = time.monotonic()
    for sender in senders:
        sender.start()
    print("load: running", flush=True)
    for sender in senders:
        sender.join()
    seconds = time.monotonic() - start

    entries = [(entry["id"], entry["seq"]) for entry in log(alice, convo)]
    problems = []
    if dict(entries) != acknowledged or len(entries) != len(acknowledged):
        problems.append(f"the log has {len(entries)} entries, not those that were acknowledged")
    if [seq for _, seq in entries] != list(range(1, len(entries) + 1)):
        problems.append("seq has a gap")
    deadline = time.monotonic() + CATCH_UP
    while streamed != acknowledged and time.monotonic() < deadline:
        time.sleep(0.1)
    if streamed != acknowledged:
        problems.append(f"the stream has {len(streamed)} entries")
    if failures and "--strict" in sys.argv:
        problems.append(f"failed: {failures[:3]}")
    print(f"load: {len(acknowledged)} messages in {seconds:.0f} s, {len(failures)} requests failed and were repeated, "
          f"{len(entries)} in the log, {len(streamed)} on the stream: {'; '.join(problems) or 'nothing lost'}")
    sys.exit(bool(problems))


main()
